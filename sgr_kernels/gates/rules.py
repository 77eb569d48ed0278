"""The rules of torch's functions with kinks: what ``gates.decide`` decides is which smooth branch an element takes.

The same rule serves recording and replaying. At a kink it takes the branch that torch's derivative takes; NaN goes to a
branch that gives NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..normalized import how_computed, note_relu
from ..operators.common.checks import FLOATING
from ..operators.gate_bits import record_relu, record_relu_, replay_relu, replay_relu_
from ..torch_internals import in_function_transform
from .packing import SMALL, in_memory, memory_format, strided_as_from
from .tape import Gates


def relu(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    if input.numel() < SMALL and not (torch.compiler.is_dynamo_compiling() or in_function_transform()):
        return _small_relu(gates, input, inplace)
    return leaky_relu(gates, input, 0.0, inplace)


def leaky_relu(gates: Gates, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    if not torch.compiler.is_compiling() and input.dtype in FLOATING:
        how = how_computed(input)
        if how is None:
            return _LeakyReLU.apply(input, gates, negative_slope, inplace)
        y = _LeakyReLU.apply(input, gates, negative_slope, inplace, found := [])
        if found[0].format == memory_format(y):
            note_relu(y, how, found[0].bits, negative_slope)
        return y
    below = negative_slope * input if negative_slope else 0.0
    return _put(input, torch.where(gates.decide(torch.le, input, 0), below, input), inplace)


def _other_shape(x: Tensor) -> RuntimeError:
    return RuntimeError(
        "the network is not the same in two passes: a ReLU gets a tensor of another shape than before, now "
        f"{tuple(x.shape)}; keep it, or use engine='autograd'"
    )


class _Small(NamedTuple):
    """Of a small ReLU, what it gave: a gate is closed where that is <= 0."""

    result: Tensor


def _small_relu(gates: Gates, x: Tensor, inplace: bool) -> Tensor:
    """By operators of torch: one with a derivative in Python takes ten times as long for a small tensor."""
    if gates.recording and x.requires_grad:
        # Nothing can be written into this result: the backward pass needs it, and refuses another version of it.
        y = torch.relu_(x) if inplace else torch.relu(x)
        gates.keep(_Small(y.detach()))
        return y
    if gates.recording:
        recorded = _Small(torch.relu(x.detach()))
        gates.keep(recorded)
    else:
        recorded = gates.recall()
        if not isinstance(recorded, _Small) or recorded.result.shape != x.shape:
            raise _other_shape(x)
    # As a function of x, the derivative of ReLU keeps its gates and no result: a network may write into that.
    return x.masked_fill_(recorded.result <= 0, 0.0) if inplace else _through_gates(x, recorded.result, 0)


_through_gates = torch.ops.aten.threshold_backward.default


class _ReluBits(NamedTuple):
    """Gates of a ReLU, one bit an element."""

    bits: Tensor  # (ceil(n / 8),) uint8
    format: torch.memory_format  # in whose order of elements
    shape: torch.Size


class _LeakyReLU(torch.autograd.Function):
    """One bit an element is all that the first pass, its backward and every later pass keep."""

    @staticmethod
    def forward(ctx, x, gates, slope, inplace, found=None):
        recorded = None if gates.recording else gates.recall()
        if not (gates.recording or (isinstance(recorded, _ReluBits) and recorded.shape == x.shape)):
            raise _other_shape(x)
        layout = (memory_format(x) or torch.contiguous_format) if recorded is None else recorded.format
        dense = x.contiguous(memory_format=layout)
        y, bits = _leaky_relu(dense, None if recorded is None else recorded.bits, slope, inplace and dense is x)
        if recorded is None:
            gates.keep(_ReluBits(bits, layout, x.shape))
        if found is not None:
            found.append(_ReluBits(bits, layout, x.shape))
        if inplace:
            ctx.mark_dirty(x)
            y = x if dense is x else x.copy_(y)
        else:
            y = strided_as_from(x, y)
        ctx.save_for_backward(bits)
        ctx.slope, ctx.layout = slope, layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (bits,) = ctx.saved_tensors
        dense = grad.contiguous(memory_format=ctx.layout)
        return _leaky_relu(dense, bits, ctx.slope, dense is not grad)[0], None, None, None, None


def _leaky_relu(x: Tensor, bits: Tensor | None, slope: float, inplace: bool) -> tuple[Tensor, Tensor]:
    """Leaky ReLU of a tensor without gaps in memory, and its gates: ``bits``, or those of x if that is None."""
    memory = in_memory(x)
    if inplace:
        if bits is None:
            bits = record_relu_(memory, slope)
        else:
            replay_relu_(memory, bits, slope)
        return x, bits
    if bits is None:
        y, bits = record_relu(memory, slope)
    else:
        y = replay_relu(memory, bits, slope)
    return y.as_strided(x.shape, x.stride()).detach(), bits  # no view, so that a network may write into it


def relu6(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    return hardtanh(gates, input, 0.0, 6.0, inplace)


def hardtanh(gates: Gates, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    low, high = gates.decide(torch.le, input, min_val), gates.decide(torch.ge, input, max_val)
    return _put(input, torch.where(low, min_val, torch.where(high, max_val, input)), inplace)


def hardsigmoid(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    low, high = gates.decide(torch.le, input, -3), gates.decide(torch.ge, input, 3)
    return _put(input, torch.where(low, 0.0, torch.where(high, 1.0, input / 6 + 0.5)), inplace)


def hardswish(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    low, high = gates.decide(torch.lt, input, -3), gates.decide(torch.gt, input, 3)
    x = input.clone() if inplace else input  # its derivative needs the old values
    return _put(input, torch.where(low, 0.0, torch.where(high, x, x * (x + 3) / 6)), inplace)


def prelu(gates: Gates, input: Tensor, weight: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (input.dim() - 2)] if input.dim() > 1 else [-1]
    return torch.where(gates.decide(torch.gt, input, 0), input, weight.to(input.dtype).view(shape) * input)


def elu(gates: Gates, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _exponential(gates, input, 1.0, alpha, 1.0, inplace)


def celu(gates: Gates, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _exponential(gates, input, 1.0, alpha, 1.0 / alpha, inplace)


def selu(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    scale = 1.0507009873554804934193349852946
    return _exponential(gates, input, scale, scale * 1.6732632423543772848170429916717, 1.0, inplace)


def _exponential(gates: Gates, x: Tensor, slope: float, height: float, rate: float, inplace: bool) -> Tensor:
    """slope x above 0, height (exp(rate x) - 1) below."""
    is_open = gates.decide(torch.gt, x, 0)
    below = height * torch.expm1(rate * x.masked_fill(is_open, 0.0))  # the branch not taken must not overflow
    return _put(x, torch.where(is_open, slope * x, below), inplace)


def threshold(gates: Gates, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    return _put(input, torch.where(gates.decide(torch.le, input, threshold), value, input), inplace)


def abs(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    positive, negative = gates.decide(torch.gt, input, 0), gates.decide(torch.lt, input, 0)
    return _put(input, torch.where(positive, input, torch.where(negative, -input, 0.0 * input)), inplace)


def clamp(gates: Gates, input: Tensor, min=None, max=None, inplace: bool = False) -> Tensor:
    y = input
    if min is not None:
        y = torch.where(gates.decide(torch.lt, y, min), min, y)
    if max is not None:
        y = torch.where(gates.decide(torch.gt, y, max), max, y)
    return _put(input, y, inplace)


def clamp_min(gates: Gates, input: Tensor, min, inplace: bool = False) -> Tensor:
    return clamp(gates, input, min=min, inplace=inplace)


def clamp_max(gates: Gates, input: Tensor, max, inplace: bool = False) -> Tensor:
    return clamp(gates, input, max=max, inplace=inplace)


def maximum(gates: Gates, input: Tensor, other: Tensor) -> Tensor:
    return _better(gates, torch.lt, input, other)


def minimum(gates: Gates, input: Tensor, other: Tensor) -> Tensor:
    return _better(gates, torch.gt, input, other)


def _better(gates: Gates, is_worse: Callable, x: Tensor, other: Tensor) -> Tensor:
    """Of two elements the better one, NaN before any number; their mean where equal, as in torch's derivative."""
    loses = gates.decide(lambda: is_worse(x, other) | other.isnan())
    equal = gates.decide(torch.eq, x, other)
    return torch.where(equal, (x + other) / 2, torch.where(loses, other, x))


def max(gates: Gates, input: Tensor, dim=None, keepdim: bool = False, **kwargs):
    return _max_or_min(gates, torch.max, maximum, input, kwargs.get("other", dim), keepdim)


def min(gates: Gates, input: Tensor, dim=None, keepdim: bool = False, **kwargs):
    return _max_or_min(gates, torch.min, minimum, input, kwargs.get("other", dim), keepdim)


def _max_or_min(gates: Gates, function: Callable, of_two: Callable, x: Tensor, dim, keepdim: bool):
    """torch has three functions of this name: over all elements, along a dimension, of two tensors."""
    if isinstance(dim, Tensor):
        return of_two(gates, x, dim)
    if dim is None:
        return _extreme(gates, function, x)
    indices = gates.decide(lambda: function(x, dim, keepdim=True)[1])
    return _along(x, indices, dim, keepdim, getattr(torch.return_types, function.__name__))


def amax(gates: Gates, input: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    return _extreme(gates, torch.amax, input, dim, keepdim)


def amin(gates: Gates, input: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    return _extreme(gates, torch.amin, input, dim, keepdim)


def _extreme(gates: Gates, function: Callable, x: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    """The mean of the elements equal to the extreme value, as in torch's derivative."""
    dims = tuple(range(x.dim())) if dim == () else dim
    reach = gates.decide(lambda: x == (function(x, dims, keepdim=True) if dim != () else function(x)))
    return torch.where(reach, x, 0.0).sum(dims, keepdim) / reach.sum(dims, keepdim)


def sort(gates: Gates, input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False):
    indices = gates.decide(lambda: torch.sort(input, dim=dim, descending=descending, stable=stable)[1])
    return _along(input, indices, dim, True, torch.return_types.sort)


def topk(gates: Gates, input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True):
    indices = gates.decide(lambda: torch.topk(input, k, dim, largest, sorted)[1])
    return _along(input, indices, dim, True, torch.return_types.topk)


def _along(x: Tensor, indices: Tensor, dim: int, keepdim: bool, result: Callable) -> tuple[Tensor, Tensor]:
    """(values, indices), as the named tuple ``result`` of torch."""
    values = x.gather(dim, indices)
    return result((values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim)))


def div(gates: Gates, input: Tensor, other, *, rounding_mode: str | None = None, inplace: bool = False) -> Tensor:
    if rounding_mode is None:
        return input.div_(other) if inplace else torch.div(input, other)
    y = gates.decide(lambda: torch.div(input, other, rounding_mode=rounding_mode))
    return _put(input, y, inplace)


def _put(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    return x.copy_(y) if inplace else y
