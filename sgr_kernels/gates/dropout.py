"""The rule of dropout: a recorded mask is taken again."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .tape import Gates

_ALPHA = 1.7580993408473766  # of alpha dropout: dropped elements of a SELU network are set to -_ALPHA


def dropout(function: Callable) -> Callable:
    """The rule of a dropout of torch or torch.nn.functional: y = scale mask x + shift, for a recorded mask."""
    is_alpha, writes = "alpha" in function.__name__, function.__name__.endswith("_")
    of_layers = function.__module__ == F.__name__  # these have defaults, and an argument ``inplace``

    def rule(
        gates: Gates,
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
        kept = gates.draw(lambda: function(torch.ones_like(input), p, True) > (scale + shift + dropped) / 2)
        kept = kept.to(input.dtype)
        y = input * (kept * scale)
        if is_alpha:
            y = y + (kept * (shift - dropped) + dropped)
        return input.copy_(y) if inplace else y

    return rule
