"""Convolutions whose derivatives, of any order, are convolutions and their gradients.

A convolution is linear in its input and in its weight, so that nothing else is needed. torch takes the weight gradient
of a double backward from a convolution as well, but of transposed tensors: images are its channels, and its filter, as
large as an image, is the gradient of the output. There are no fast kernels for such filters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.relu_layers import cast_for_autocast
from ..torch_internals import is_wanted
from .worth import is_large


def _convolution(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups: int = 1
    ) -> Tensor:
        """``function``. Left to torch are small ones, padding by name, one sample without a batch, complex numbers."""
        sizes = sizes_of(dims, stride, padding, dilation)
        if sizes is None or input.dim() != dims + 2 or not input.is_floating_point() or not is_large(input):
            return function(input, weight, bias, stride, padding, dilation, groups)
        return _Convolution.apply(*cast_for_autocast(input, weight, bias), (*sizes, False, [0] * dims, groups))

    return convolution


conv1d, conv2d, conv3d = (
    _convolution(function, dims) for dims, function in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)
)


def sizes_of(dims: int, *sizes: Any) -> list[tuple[int, ...]] | None:
    """Stride, padding and dilation, a number a dimension each; None where one is no number: padding by name."""
    if not all(isinstance(size, int | tuple | list) for size in sizes):
        return None
    return [(size,) * dims if isinstance(size, int) else tuple(size) for size in sizes]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return torch.convolution(input, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        wanted = [is_wanted(ctx, i) for i in range(3)]
        of_input, of_weight = _Gradients.apply(grad, *ctx.saved_tensors, ctx.options, wanted[:2])
        return of_input, of_weight, grad.sum((0, *range(2, grad.dim()))) if wanted[2] else None, None


class _Gradients(torch.autograd.Function):
    """Of input and weight; None in the place of one that is not wanted."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, options: tuple, wanted: list[bool]):
        ctx.save_for_backward(grad, input, weight)
        ctx.options = options
        ctx.set_materialize_grads(False)
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, input, weight, None, *options, [*wanted, False]
        )
        return of_input if wanted[0] else None, of_weight if wanted[1] else None

    @staticmethod
    def backward(ctx: Any, v_input: Tensor | None, v_weight: Tensor | None):
        """Gradients of <v_input, gradient of the input> + <v_weight, gradient of the weight>."""
        (grad, input, weight), options = ctx.saved_tensors, ctx.options
        of_grad = of_input = of_weight = None
        if v_input is not None:
            if is_wanted(ctx, 0):
                of_grad = _Convolution.apply(v_input, weight, None, options)
            if is_wanted(ctx, 2):
                _, of_weight = _Gradients.apply(grad, v_input, weight, options, [False, True])
        if v_weight is not None:
            if is_wanted(ctx, 0):
                change = _Convolution.apply(input, v_weight, None, options)
                of_grad = change if of_grad is None else of_grad + change
            if is_wanted(ctx, 1):
                of_input, _ = _Gradients.apply(grad, input, v_weight, options, [True, False])
        return of_grad, of_input, of_weight, None, None
