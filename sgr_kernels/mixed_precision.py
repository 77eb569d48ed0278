"""Linear layers and convolutions under autocast, with the gradients of their parameters in float32.

Autocast rounds the gradient of a weight to half precision before the float32 parameter gets it. An optimizer can bear
that, but a difference of two such gradients is then rounding in part. Outputs and the gradients of inputs are those of
autocast. Gradients of parameters are the hardware's float32 sums, as they are, and on a GPU at no other price:

* Linear layers, and convolutions that are matrix products of the memory as it is (a kernel of one pixel, stride 1, no
  padding, no groups, channels last), are products of half precision matrices with a float32 result.
* Other convolutions take one product of the whole batch, rounded once. Sums of parts, each rounded, would be worse: the
  gradients of parts hardly point the same way, so that together they are longer than their sum, and round as such.
  The rounding was at most 0.02 of an SGR gradient in measurements at the default step, added in quadrature.

On a CPU convolutions are computed in float32, from copies of a few images at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .double_backward.convolutions import sizes_of
from .gpu_path import as_on_gpu
from .normalized import batch_norm, how_computed
from .torch_internals import in_function_transform, release_saved

LARGEST_COPIES = 2**24  # elements of input and output that a convolution on a CPU copies to float32 at a time
_backward = torch.ops.aten.convolution_backward


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.dim() != 2 or not _applies(input, weight, bias):
        return F.linear(input, weight, bias)
    rows = torch.atleast_2d(_as_autocast(input)).flatten(0, -2)
    return _Linear.apply(rows, weight, bias).view(*input.shape[:-1], len(weight))


def _convolution(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups: int = 1
    ) -> Tensor:
        sizes = sizes_of(dims, stride, padding, dilation)
        if sizes is None or input.dim() != dims + 2 or not _applies(input, weight, bias):
            return function(input, weight, bias, stride, padding, dilation, groups)
        return _Convolution.apply(_as_autocast(input), weight, bias, *sizes, groups)

    return convolution


conv2d = _convolution(F.conv2d, 2)

# Functions of torch in float32 as above. Transposed convolutions, padding by name, matrix products without a layer and
# attention are left to autocast.
LAYERS = {
    F.linear: linear,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: conv2d,
    F.conv3d: _convolution(F.conv3d, 3),
    F.batch_norm: batch_norm,
}


def _applies(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether autocast would round input and weight, and the weight wants a gradient. Autocast leaves float64 alone."""
    device = input.device.type
    return (
        weight.requires_grad
        and weight.dtype == torch.float32
        and weight.numel() > 0
        and input.is_floating_point()
        and input.dtype != torch.float64
        and (bias is None or bias.shape == weight.shape[:1])
        # The compiler can trace neither question.
        and (torch.compiler.is_compiling() or (torch.amp.is_autocast_available(device) and not in_function_transform()))
        and torch.is_autocast_enabled(device)
    )


def _as_autocast(input: Tensor) -> Tensor:
    return input.to(torch.get_autocast_dtype(input.device.type))


class _Linear(torch.autograd.Function):
    """F.linear of a matrix: with more dimensions the output would be a view, which a network could not write into."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        narrow = weight.to(input.dtype)
        ctx.save_for_backward(input, narrow)
        return F.linear(input, narrow, None if bias is None else bias.to(input.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor):
        input, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        with torch.autocast(input.device.type, enabled=False):
            grad_input = grad_output @ weight if wanted[0] else None
            grad_weight = _float32_product(grad_output.t(), input) if wanted[1] else None
            grad_bias = grad_output.sum(0, dtype=torch.float32) if wanted[2] else None
        return grad_input, grad_weight, grad_bias


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of half precision matrices, in float32."""
    if as_on_gpu(a):
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        stride, padding, dilation, groups = options
        narrow = weight.to(input.dtype)
        how = None if torch.compiler.is_compiling() else how_computed(input)
        ctx.save_for_backward(narrow, *((input,) if how is None else how.tensors))
        ctx.again = None if how is None else how.again
        ctx.options = (stride, padding, dilation, False, [0] * len(stride), groups)
        return torch.convolution(input, narrow, None if bias is None else bias.to(input.dtype), *ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor):
        weight, *kept = ctx.saved_tensors
        inputs = kept if ctx.again is None else [ctx.again(kept)]
        wanted = ctx.needs_input_grad[:3]
        grad_bias = grad_output.sum((0, *range(2, grad_output.dim())), dtype=torch.float32) if wanted[2] else None
        with torch.autocast(weight.device.type, enabled=False):
            if not as_on_gpu(weight):
                grad_input, grad_weight = _in_float32(grad_output, *inputs, weight, ctx.options, wanted)
            elif _is_product(*inputs, weight, ctx.options):
                del kept
                release_saved(ctx)
                grad_input, grad_weight = _of_pixels(grad_output, inputs, weight, wanted)
            else:
                mask = [*wanted[:2], False]
                grad_input, grad_weight, _ = _backward(grad_output, *inputs, weight, None, *ctx.options, mask)
                grad_weight = grad_weight.float() if wanted[1] else None
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _is_product(input: Tensor, weight: Tensor, options: tuple) -> bool:
    """Whether the convolution is a product of matrices of pixels and channels, with ``input`` one as it is."""
    stride, padding, _, _, _, groups = options
    is_pointwise = weight[0, 0].numel() == 1 and {*stride} == {1} and {*padding} == {0} and groups == 1
    return is_pointwise and input.movedim(1, -1).is_contiguous()


def _of_pixels(
    grad_output: Tensor, inputs: list[Tensor], weight: Tensor, wanted: tuple
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight where _is_product; ``inputs``, one, is emptied to free it before its gradient."""
    pixels = grad_output.movedim(1, -1)
    rows = pixels.flatten(0, -2)
    grad_input = grad_weight = None
    if wanted[1]:
        grad_weight = _float32_product(rows.t(), inputs[0].movedim(1, -1).flatten(0, -2)).view(weight.shape)
    inputs.clear()
    if wanted[0]:
        grad_input = (rows @ weight.flatten(1)).view(*pixels.shape[:-1], weight.shape[1]).movedim(-1, 1)
    return grad_input, grad_weight


def _in_float32(
    grad_output: Tensor, input: Tensor, weight: Tensor, options: tuple, wanted: tuple
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and weight; that of the weight from float32 copies of a few images at a time, summed."""
    grad_input = _backward(grad_output, input, weight, None, *options, [True, False, False])[0] if wanted[0] else None
    if not wanted[1]:
        return grad_input, None
    images = max(1, LARGEST_COPIES // max(1, input[:1].numel() + grad_output[:1].numel()))
    parts = zip(grad_output.split(images), input.split(images), strict=True)
    wide, only_weight = weight.float(), [False, True, False]
    gradients = (_backward(g.float(), x.float(), wide, None, *options, only_weight)[1] for g, x in parts)
    total = next(gradients)
    for gradient in gradients:
        total += gradient
    return grad_input, total
