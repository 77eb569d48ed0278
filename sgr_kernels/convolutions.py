"""Convolutions for a double backward: their derivatives, of any order, are convolutions and their gradients.

A convolution is linear in its input and in its weight, so that nothing else is needed. torch takes the weight gradient
of a double backward from a convolution as well, but of transposed tensors: images are its channels, and its filter, as
large as an image, is the gradient of the output. GPUs have no fast kernels for such filters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .functional.relu_layers import cast_for_autocast
from .gpu_path import as_on_gpu
from .torch_internals import in_function_transform, will_be_executed

_DIMS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_of_torch = False


def differentiated_twice(x: Tensor) -> contextlib.AbstractContextManager:
    """A context for a forward pass over ``x``: on a GPU convolutions are those of this file, elsewhere those of torch.

    Left to torch are transposed convolutions, padding by name, one sample without a batch, and compiled code.
    """
    return _Convolutions() if as_on_gpu(x) and not _of_torch else contextlib.nullcontext()


@contextlib.contextmanager
def convolutions_of_torch() -> Iterator[None]:
    """A double backward as torch has it: to tell what ours is worth."""
    global _of_torch
    before, _of_torch = _of_torch, True
    try:
        yield
    finally:
        _of_torch = before


def sizes_of(dims: int, *sizes: Any) -> list[tuple[int, ...]] | None:
    """Stride, padding and dilation, a number a dimension each; None where one is no number: padding by name."""
    if not all(isinstance(size, int | tuple | list) for size in sizes):
        return None
    return [(size,) * dims if isinstance(size, int) else tuple(size) for size in sizes]


class _Convolutions(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        return _called(func, *args, **kwargs) if func in _DIMS else func(*args, **kwargs)


def _called(
    function: Callable, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups: int = 1
) -> Tensor:
    dims = _DIMS[function]
    sizes = sizes_of(dims, stride, padding, dilation)
    if sizes is None or not _applies(dims, input):
        return function(input, weight, bias, stride, padding, dilation, groups)
    return _Convolution.apply(*cast_for_autocast(input, weight, bias), (*sizes, False, [0] * dims, groups))


def _applies(dims: int, input: Tensor) -> bool:
    return (
        input.dim() == dims + 2
        and input.is_floating_point()
        and not torch.compiler.is_compiling()
        and not in_function_transform()
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, options: tuple) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.options = options
        return torch.convolution(input, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        wanted = [_is_wanted(ctx, i) for i in range(3)]
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
            if _is_wanted(ctx, 0):
                of_grad = _Convolution.apply(v_input, weight, None, options)
            if _is_wanted(ctx, 2):
                _, of_weight = _Gradients.apply(grad, v_input, weight, options, [False, True])
        if v_weight is not None:
            if _is_wanted(ctx, 0):
                change = _Convolution.apply(input, v_weight, None, options)
                of_grad = change if of_grad is None else of_grad + change
            if _is_wanted(ctx, 1):
                of_input, _ = _Gradients.apply(grad, input, v_weight, options, [True, False])
        return of_grad, of_input, of_weight, None, None


def _is_wanted(ctx: Any, index: int) -> bool:
    """Whether this backward pass uses the gradient of an argument; needs_input_grad says if any pass could."""
    return ctx.needs_input_grad[index] and will_be_executed(ctx.next_functions[index][0])
