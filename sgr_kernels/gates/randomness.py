"""Random numbers: the first pass draws them as an ordinary pass does, and every other pass gets them from the tape.

The streams they come from belong to the whole process: to set one back would give another thread numbers that it had
before, and the network the numbers of that thread. So what a function of torch draws is recorded, from a global stream
or from a ``torch.Generator`` of the network's own. Only where the numbers cannot be had, inside of fused attention, a
recurrent layer or a function declared smooth, the stream is set back for the length of the call; it must then move
exactly as it did in the first pass. Compiled code cannot set it back: if such a call is in there, the streams are set
back for whole passes, and everything is drawn again.

While a CUDA graph is captured a stream can be neither read nor set back. What is recorded needs neither.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..torch_internals import is_fake, tree_leaves
from .lists import functions_named

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

# Functions of torch that may draw numbers which function modes do not see; with those declared
_RECURRENT = functions_named("lstm gru rnn_tanh")
_HIDDEN_IN_TORCH = _RECURRENT | functions_named(
    "scaled_dot_product_attention multi_head_attention_forward _standard_gamma _sample_dirichlet"
)
HIDDEN = {*_HIDDEN_IN_TORCH}
# Places of the arguments ``dropout_p`` and ``training``
_ATTENTION = {F.scaled_dot_product_attention: (4, None), F.multi_head_attention_forward: (10, 13)}


class Stretch:
    """How far a call, or a pass, moved the random stream of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = self.after = _state(device)

    @classmethod
    def of(cls, func: Callable, arguments: Any) -> "Stretch | None":
        """Before a call; None where nothing is drawn, on fake tensors, or, during a capture, no stream can be read.

        Raises:
            RuntimeError: the function draws during a capture. Of one that is declared only an earlier step can tell.
        """
        tensor = next((leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)), None)
        device = torch.device("cpu") if tensor is None else tensor.device
        if is_capturing(device):
            refuse_capture([func.__name__] if func in _HIDDEN_IN_TORCH else [])
            return None
        return None if tensor is not None and is_fake(tensor) else cls(device)

    def ended(self) -> "Stretch | None":
        """After it; None: it drew nothing."""
        self.after = _state(self.device)
        return None if torch.equal(self.before, self.after) else self

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, the same numbers are drawn.

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


def refuse_capture(names: Iterable[str]) -> None:
    """Raises RuntimeError, during the capture of a CUDA graph, if there are functions that set a stream back."""
    if names := ", ".join(dict.fromkeys(names)):
        raise RuntimeError(
            f"a CUDA graph cannot capture the random numbers drawn inside of {names}: engine='directional' sets the "
            "random stream back for these; switch their dropout off, or use engine='autograd'"
        )


def _state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def may_draw(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether this call of one of ``HIDDEN`` may draw numbers."""
    if func in _RECURRENT:
        return _is_dropping(args)
    if func not in _ATTENTION:
        return True
    of_dropout, of_training = _ATTENTION[func]
    training = of_training is None or _argument(args, kwargs, "training", of_training, True)
    return bool(training and _argument(args, kwargs, "dropout_p", of_dropout, 0.0))


def _is_dropping(args: tuple) -> bool:
    """Of a recurrent layer: whether there is dropout. Its tensors come in two forms, the rest is the same in both."""
    first = next((place for place, arg in enumerate(args) if isinstance(arg, bool)), len(args))
    _, num_layers, dropout, training = (*args[first : first + 4], *[2] * 4)[:4]  # given by name: there may be
    return bool(training and dropout and num_layers > 1)


def _argument(args: tuple, kwargs: dict, name: str, place: int, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)
