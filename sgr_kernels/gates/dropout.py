"""The rule of dropout: a recorded mask is taken again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operators.common.checks import FLOATING
from ..operators.gate_bits import record_relu_, replay_relu_
from .packing import in_memory, memory_format, strided_as_from
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
        def choose() -> Tensor:
            return function(torch.ones_like(input), p, True) > (scale + shift + dropped) / 2

        if not is_alpha and input.dtype in FLOATING and not torch.compiler.is_compiling():
            y = _Dropout.apply(input, _mask(gates, input.shape, choose), scale)
            return input.copy_(y) if inplace else y
        kept = gates.draw(choose).to(input.dtype)
        y = input * (kept * scale)
        if is_alpha:
            y = y + (kept * (shift - dropped) + dropped)
        return input.copy_(y) if inplace else y

    return rule


class _Mask(NamedTuple):
    """Of a dropout, one bit an element."""

    bits: Tensor  # (ceil(n / 8),) uint8
    format: torch.memory_format  # in whose order of elements
    shape: torch.Size


def _mask(gates: Gates, shape: torch.Size, choose: Callable[[], Tensor]) -> _Mask:
    """As ``gates.draw(choose)``, without unpacking it."""
    recorded = None if gates.recording else gates.recall()
    if recorded is not None and not gates.rewound:
        if recorded.shape != shape:
            raise RuntimeError(
                "the network is not the same in two passes: a dropout gets a tensor of another shape, "
                f"{tuple(shape)} after {tuple(recorded.shape)}; keep it, or use engine='autograd'"
            )
        return recorded
    with torch.no_grad():
        kept = choose()
        layout = memory_format(kept) or torch.contiguous_format
        # By the kernels for ReLU: 1 is above 0.
        ones = kept.to(torch.bfloat16, copy=True).contiguous(memory_format=layout)
        mask = _Mask(record_relu_(in_memory(ones), 0.0), layout, shape)
    if gates.recording:
        gates.keep(mask)
    return mask


class _Dropout(torch.autograd.Function):
    """One bit an element is all that a pass keeps for its backward."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, mask: _Mask, scale: float) -> Tensor:
        ctx.save_for_backward(mask.bits)
        ctx.mask, ctx.scale = mask._replace(bits=None), scale
        return _masked(input, mask.bits, mask.format).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (bits,) = ctx.saved_tensors
        return _Dropout.apply(grad, ctx.mask._replace(bits=bits), ctx.scale), None, None  # to be differentiated again


def _masked(values: Tensor, bits: Tensor, layout: torch.memory_format) -> Tensor:
    """The values times their bits, as torch has it: NaN and Inf show where a bit is 0."""
    dense = values.contiguous(memory_format=layout)
    y = torch.ones_like(dense)
    replay_relu_(in_memory(y), bits, 0.0)
    return strided_as_from(values, y.mul_(dense))
