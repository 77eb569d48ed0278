"""The two products of a linear ReLU block with SGR (Eq. 35), with everything around them fused in.

Only in ``sgr_triton``: other backends multiply with the library and fuse what lies between the products.
"""

from __future__ import annotations

import torch

from .. import reference
from .registry import register
from .sgr_loss import OPTIONS


def _fake_delta(grad, output, weight, target, normalize, reduction, floor, floor_tensor, eps):
    batch = grad.shape[0]
    torch._check(weight.dim() == 2, lambda: f"linear_relu_delta expects weight (m, n), got {tuple(weight.shape)}")
    return (
        grad.new_empty((batch, weight.shape[1])),
        grad.new_empty((), dtype=reference.loss_dtype(grad)),
        grad.new_empty((3, batch), dtype=torch.float64),
    )


def _fake_weight_grad(grad, output, x, delta, target, alpha, beta, factor, need_bias):
    m, n = grad.shape[1], x.shape[1]
    dtype = reference.loss_dtype(grad)
    return grad.new_empty((m, n), dtype=dtype), grad.new_empty(m if need_bias else 0, dtype=dtype)


# delta = A W with A = grad * [output > 0]; its SGR loss against target and the coefficients of sgr_loss, accumulated by
# the epilogue of the product
register(
    "linear_relu_delta",
    f"(Tensor grad, Tensor output, Tensor weight, Tensor target, {OPTIONS})"
    " -> (Tensor delta, Tensor loss, Tensor coef)",
    _fake_delta,
    triton_file="linear_relu_sgr",
    only_triton=True,
)
# A^T (x + factor * v) and sum_b A_b: both operands are formed on the fly, v from the coefficients
register(
    "linear_relu_weight_grad",
    "(Tensor grad, Tensor output, Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, float factor,"
    " bool need_bias) -> (Tensor grad_weight, Tensor grad_bias)",
    _fake_weight_grad,
    triton_file="linear_relu_sgr",
    only_triton=True,
)
