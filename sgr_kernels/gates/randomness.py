"""Random numbers: the first pass draws them as an ordinary pass does, and every other pass gets them from the tape.

The streams they come from belong to the whole process: to set one back would give another thread numbers that it had
before, and the network the numbers of that thread. So what a function of torch draws is recorded, from a global stream
or from a ``torch.Generator`` of the network's own. Only where the numbers cannot be had, inside of fused attention, a
recurrent layer or a function declared smooth, the stream is set back for the length of the call; it must then move
exactly as it did in the first pass.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_internals import tree_leaves
from .lists import functions_named

if TYPE_CHECKING:
    from .tape import Gates

# Functions whose results are random numbers, constant for Algorithm 1
SOURCES = functions_named(
    """
    rand randn randint randperm rand_like randn_like randint_like bernoulli normal uniform random exponential poisson
    multinomial binomial cauchy log_normal geometric
    """
)
BITS = functions_named("bernoulli")  # of these, the results are zeros and ones
DROPOUTS = functions_named(
    """
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout
    """
)
_ALPHA = 1.7580993408473766  # of alpha dropout: dropped elements of a SELU network are set to -_ALPHA

# Functions that may draw numbers which function modes do not see
HIDDEN = functions_named(
    "scaled_dot_product_attention multi_head_attention_forward lstm gru rnn_tanh _standard_gamma _sample_dirichlet"
)
# Name, place and default of the arguments that say how much they drop, and whether they do
_ATTENTION = {
    F.scaled_dot_product_attention: (("dropout_p", 4, 0.0), ("training", 99, True)),
    F.multi_head_attention_forward: (("dropout_p", 10, 0.0), ("training", 13, True)),
}


class Stretch:
    """How far a call moved the random stream of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self.after = _state(device)

    @classmethod
    def of(cls, arguments: Any) -> "Stretch | None":
        """Before a call; None during the capture of a CUDA graph, where streams cannot be read."""
        devices = (leaf.device for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))
        device = next(devices, torch.device("cpu"))
        return None if is_capturing(device) else cls(device)

    def ended(self) -> "Stretch | None":
        """After the call; None: it drew nothing."""
        self.after = _state(self.device)
        return None if torch.equal(self.before, self.after) else self

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, the call draws the same numbers.

        Raises:
            RuntimeError: the stream does not move as it did, since another thread draws from it.
        """
        now = _state(self.device)
        _set_state(self.device, self.before)
        try:
            yield
            if not torch.equal(_state(self.device), self.after):
                raise RuntimeError(
                    "torch's random stream did not move as in the first pass: another thread draws from it. "
                    "engine='directional' cannot repeat the numbers drawn inside of fused attention, recurrent layers "
                    "and functions declared smooth; draw those of the other thread from a torch.Generator of its own"
                )
        finally:
            _set_state(self.device, now)


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def dropout(function: Callable) -> Callable:
    """The rule of a dropout of torch or torch.nn.functional: y = scale mask x + shift, for a recorded mask."""
    is_alpha, writes = "alpha" in function.__name__, function.__name__.endswith("_")
    of_layers = function.__module__ == F.__name__  # these have defaults, and an argument ``inplace``

    def rule(
        gates: "Gates",
        input: Tensor,
        p: float = 0.5,
        training: bool = of_layers and not is_alpha,
        inplace: bool = writes,
        *,
        train: bool = False,
    ) -> Tensor:
        training = training or train
        if not training or not 0 < p < 1 or input.numel() == 0:  # nothing to draw, or an error
            return function(input, p, training, *([inplace] if of_layers else []))
        scale = ((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5 if is_alpha else 1 / (1 - p)
        shift = _ALPHA * scale * p if is_alpha else 0.0
        dropped = shift - _ALPHA * scale if is_alpha else 0.0
        # Drawn by the function itself: then the stream moves as in an ordinary pass on every device.
        kept = gates.decide(lambda: function(torch.ones_like(input), p, True) > (scale + shift + dropped) / 2)
        kept = kept.to(input.dtype)
        y = input * (kept * scale)
        if is_alpha:
            y = y + (kept * (shift - dropped) + dropped)
        return input.copy_(y) if inplace else y

    return rule


def draws_unseen(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether this call of one of ``HIDDEN`` may draw numbers.

    Raises:
        ValueError: it will, in code that is being compiled, where no stream can be set back.
    """
    attention = _ATTENTION.get(func)
    if attention is None:
        return not torch.compiler.is_compiling()
    dropout, training = (_argument(args, kwargs, *argument) for argument in attention)
    draws = bool(training and dropout)
    if draws and torch.compiler.is_compiling():
        raise ValueError(
            f"{func.__name__} with dropout inside of compiled code: engine='directional' cannot repeat its random "
            "numbers; leave it out of the compiled code (torch.compiler.disable), or use engine='autograd'"
        )
    return draws


def _argument(args: tuple, kwargs: dict, name: str, place: int, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)
