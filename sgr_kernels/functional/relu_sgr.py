"""Loss, input gradient and SGR weight gradient of one ReLU block in one call, without a graph."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..affine import AffineMap, Conv2d, Linear
from ..blocks import Block
from ..operators.common.checks import check_like, check_shape
from ..operators.common.options import Options
from .direction import sgr_gradient
from .relu_layers import check_linear, conv_geometry

CURVATURES = ("none", "exact")


class LinearReLUSGR(NamedTuple):
    """Result of :func:`sgr_kernels.linear_relu_sgr`: the SGR part alone, unweighted.

    Attributes:
        loss: 0-d SGR loss.
        delta: dL/dx, shape of x.
        grad_weight: gradient of the SGR loss for the weight.
        grad_bias: the same for the bias, zeros under ``curvature="none"``; None without a bias.
    """

    loss: Tensor
    delta: Tensor
    grad_weight: Tensor
    grad_bias: Tensor | None


class Conv2dReLUSGR(LinearReLUSGR):
    """Result of :func:`sgr_kernels.conv2d_relu_sgr`; fields as :class:`LinearReLUSGR`."""


def linear_relu_sgr(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_output: Tensor,
    target: Tensor,
    *,
    output: Tensor | None = None,
    curvature: str = "none",
    hvp: Callable[[Tensor], Tensor] | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> LinearReLUSGR:
    """Closed-form SGR of y = relu(x W^T + b): Eq. 35 and, on request, the curvature that it leaves out.

    Args:
        x: (..., n) input; the first dimension is the batch.
        weight: (m, n).
        bias: (m,) or None.
        grad_output: (..., m) dL/dy.
        target: shape of ``x``, the gradient the previous module had for its output.
        output: y, if it is known; None: it is computed.
        curvature: "none": the upstream gradient is treated as constant (Eq. 35); "exact": what Algorithm 1 computes.
            In a training step, with the forward pass, 6 and 10 B m n FLOPs. "none" is the default, other than in
            :func:`sgr_kernels.local_step`: a block does not know the loss, so "exact" cannot do without ``hvp``.
        hvp: U -> C, the Hessian of L with respect to y applied to U, both of the shape of y; needed by "exact". Called
            without gradients enabled.
        normalize, reduction, floor, eps: as in :func:`sgr_kernels.sgr_loss`.

    Returns:
        :class:`LinearReLUSGR` (loss, delta, grad_weight, grad_bias), the gradients in the dtype of ``x`` (float32 for
        float16, which they may overflow).

    Raises:
        TypeError, ValueError: dtypes, devices, shapes or options that do not fit.
    """
    check_linear(x, weight, bias)
    options = Options(normalize, reduction, floor, eps)
    return LinearReLUSGR(*_relu_sgr(Linear(), x, weight, bias, grad_output, target, output, curvature, hvp, options))


def conv2d_relu_sgr(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grad_output: Tensor,
    target: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    output: Tensor | None = None,
    curvature: str = "none",
    hvp: Callable[[Tensor], Tensor] | None = None,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> Conv2dReLUSGR:
    """:func:`linear_relu_sgr` for y = relu(conv2d(x, W) + b).

    Args:
        x, weight, bias, stride, padding, dilation, groups: as in :func:`sgr_kernels.conv2d_relu`.
        grad_output: (B, m, H', W') dL/dy.
        target, output, curvature, hvp, normalize, reduction, floor, eps: as in :func:`linear_relu_sgr`.

    Returns:
        :class:`Conv2dReLUSGR` (loss, delta, grad_weight, grad_bias). Errors: as :func:`linear_relu_sgr`.
    """
    affine = Conv2d(*conv_geometry(x, weight, bias, stride, padding, dilation, groups))
    options = Options(normalize, reduction, floor, eps)
    return Conv2dReLUSGR(*_relu_sgr(affine, x, weight, bias, grad_output, target, output, curvature, hvp, options))


@torch.no_grad()
def _relu_sgr(affine: AffineMap, x, weight, bias, grad_output, target, output, curvature, hvp, options) -> tuple:
    check_curvature(curvature)
    if (hvp is None) == (curvature == "exact"):
        raise ValueError(f"hvp belongs to curvature='exact', which needs it; got curvature={curvature!r}, hvp={hvp!r}")
    check_like("grad_output", grad_output, "x", x)
    check_like("target", target, "x", x)
    check_shape("target", target, x.shape)
    shape = affine.output_shape(x, weight)
    check_shape("grad_output", grad_output, shape)
    if output is not None:
        check_like("output", output, "x", x)
        check_shape("output", output, shape)
    block = Block(affine, weight, bias, relu=True, wants_bias=bias is not None)
    block.forward(x, output)
    block.backward(grad_output, sum_bias=False)
    delta = block.input_grad()
    loss, v = sgr_gradient(delta, target, options)
    if x.dtype == torch.float16:  # v is float32
        block.to_float32()
    tangent = block.tangent(v) if hvp is not None else None
    block.add_product(v)
    if hvp is not None:
        block.backward(hvp(tangent))
        block.add_product(block.x)
    elif bias is not None:
        block.grad_bias = torch.zeros_like(bias)
    return loss, delta, block.grad_weight, None if bias is None else block.grad_bias.to(block.grad_weight.dtype)


def check_curvature(curvature: str) -> None:
    if curvature not in CURVATURES:
        raise ValueError(f"curvature must be one of {', '.join(CURVATURES)}, got {curvature!r}")
