"""Rules of max pooling: recorded winners are taken again."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tape import Gates


def max_pool(dims: int, give_indices: bool) -> Callable:
    """The rule of F.max_pool{dims}d, or of the function that gives the indices without being asked."""
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims]

    def rule(
        gates: Gates,
        input: Tensor,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    ):
        options = (kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
        if dims == 2 and not torch.compiler.is_compiling():
            y, winners = _MaxPool2d.apply(input, gates, options)
        else:
            y, winners = _pool(gates, function, dims, input, options)
        return (y, winners) if return_indices or give_indices else y

    return rule


def adaptive_max_pool(dims: int, give_indices: bool) -> Callable:
    """The rule of F.adaptive_max_pool{dims}d, likewise."""
    function = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[dims]

    def rule(gates: Gates, input: Tensor, output_size, return_indices=False):
        y, winners = _pool(gates, function, dims, input, (output_size,))
        return (y, winners) if return_indices or give_indices else y

    return rule


def _pool(gates: Gates, function: Callable, dims: int, x: Tensor, options: tuple) -> tuple[Tensor, Tensor]:
    winners = gates.decide(lambda: _compact(function(x, *options, return_indices=True)[1], dims, x)).long()
    return _taken(x, winners, dims), winners


class _MaxPool2d(torch.autograd.Function):
    """Its backward pass is torch's kernel; that of a gather adds up one gradient at a time."""

    @staticmethod
    def forward(ctx, x, gates, options):
        if gates.recording:
            y, winners = torch.ops.aten.max_pool2d_with_indices(x, *options)
            gates.keep(_compact(winners, 2, x))
        else:
            winners = gates.recall().long()
            y = _taken(x, winners, 2)
        ctx.mark_non_differentiable(winners)
        ctx.save_for_backward(x, winners)
        ctx.options = options
        return y, winners

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        x, winners = ctx.saved_tensors
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *ctx.options, winners), None, None


def _compact(winners: Tensor, dims: int, x: Tensor) -> Tensor:
    """``winners``, places within a channel of ``x``, in the smallest dtype that holds them all."""
    places = x.shape[-dims:].numel()
    return winners.to(torch.int16 if places <= 2**15 else torch.int32 if places <= 2**31 else torch.int64)


def _taken(x: Tensor, winners: Tensor, dims: int) -> Tensor:
    """The elements of ``x`` at ``winners``, in the shape and the memory format of ``winners``."""
    y = x.flatten(-dims).gather(-1, winners.flatten(-dims)).view(winners.shape)
    last = x.dim() == 4 and winners.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if last else y
