"""Inputs and truth for the operators of linear_relu and conv2d_relu, which differ in their affine map alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .case import Cases, Compared, Inputs, Size

Tensors = tuple[Tensor, Tensor, Tensor]  # x, weight, bias
ALL = [True, True, True]


def layer_cases(
    sizes: tuple[Size, ...],
    tensors: Callable[[Size, Inputs], Tensors],
    affine: Callable[..., Tensor],
    geometry: tuple = (),
) -> tuple[Cases, Cases, Cases]:
    """Cases of the layer, of its backward and of its double backward.

    Args:
        tensors: x, weight and bias of a size.
        affine: W x + b in plain torch, called with x, weight, bias and ``geometry``.
    """

    def arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
        yield *tensors(size, inputs), *geometry

    def backward_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
        x, weight, bias = tensors(size, inputs)
        output = affine(x, weight, bias, *geometry).relu()
        yield inputs.normal(output.shape), output, x, weight, ALL, *geometry

    def double_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
        for arguments in backward_arguments(size, inputs):
            yield *tensors(size, inputs), *arguments

    def compare(results, x, weight, bias, *_) -> Iterator[Compared]:
        yield Compared("output", results[0], affine(x, weight, bias, *geometry).relu())

    def gradients(grad: Tensor, output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Of <grad, y> for x, weight and bias, with the gates of ``output``; the bias does not matter."""
        bias = weight.new_zeros(len(weight)).requires_grad_()
        y = (output > 0) * affine(x, weight, bias, *geometry)
        return torch.autograd.grad(y, (x, weight, bias), grad, create_graph=True)

    def compare_backward(results, grad, output, x, weight, *_) -> Iterator[Compared]:
        truths = gradients(grad, output, x.requires_grad_(), weight.requires_grad_())
        for name, value, truth in zip(("x", "weight", "bias"), results, truths, strict=True):
            yield Compared(f"gradient of {name}", value, truth.detach())

    def compare_double(results, v_x, v_weight, v_bias, grad, output, x, weight, *_) -> Iterator[Compared]:
        leaves = grad.requires_grad_(), x.requires_grad_(), weight.requires_grad_()
        first = gradients(grad, output, x, weight)
        inner = sum((a * v).sum() for a, v in zip(first, (v_x, v_weight, v_bias), strict=True))
        truths = torch.autograd.grad(inner, leaves)
        for name, value, truth in zip(("grad", "x", "weight"), results, truths, strict=True):
            yield Compared(f"gradient of {name}", value, truth)

    return (
        Cases(sizes, arguments, compare),
        Cases(sizes, backward_arguments, compare_backward),
        Cases(sizes, double_arguments, compare_double),
    )
