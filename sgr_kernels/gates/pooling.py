"""Max pooling whose winners were chosen before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .tape import Gates

__all__ = [
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
]


def max_pool2d(
    gates: Gates, x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    options = (kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    if torch.compiler.is_compiling():
        return _pool(gates, F.max_pool2d, 2, x, *options, return_indices)
    y, winners = _MaxPool2d.apply(x, gates, options)
    return (y, winners) if return_indices else y


def max_pool1d(
    gates: Gates, x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return _pool(gates, F.max_pool1d, 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    gates: Gates, x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return _pool(gates, F.max_pool3d, 3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def adaptive_max_pool1d(gates: Gates, x: Tensor, output_size, return_indices=False):
    return _pool(gates, F.adaptive_max_pool1d, 1, x, output_size, return_indices)


def adaptive_max_pool2d(gates: Gates, x: Tensor, output_size, return_indices=False):
    return _pool(gates, F.adaptive_max_pool2d, 2, x, output_size, return_indices)


def adaptive_max_pool3d(gates: Gates, x: Tensor, output_size, return_indices=False):
    return _pool(gates, F.adaptive_max_pool3d, 3, x, output_size, return_indices)


def _pool(gates: Gates, function, dims: int, x: Tensor, *options):
    *options, return_indices = options
    winners = gates.decide(lambda: _compact(function(x, *options, return_indices=True)[1], dims, x)).long()
    y = _taken(x, winners, dims)
    return (y, winners) if return_indices else y


class _MaxPool2d(torch.autograd.Function):
    """Backward by torch's kernel: that of a gather adds its gradients up one by one."""

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
    """Places within a channel need no eight bytes."""
    places = x.shape[-dims:].numel()
    return winners.to(torch.int16 if places <= 2**15 else torch.int32 if places <= 2**31 else torch.int64)


def _taken(x: Tensor, winners: Tensor, dims: int) -> Tensor:
    y = x.flatten(-dims).gather(-1, winners.flatten(-dims)).view(winners.shape)
    last = x.dim() == 4 and winners.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if last else y
