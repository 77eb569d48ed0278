"""linear_relu_delta and linear_relu_weight_grad: the two products of Eq. 35, with everything around them fused in.

Only in Triton (:mod:`.triton`), and no engine calls them: the fused engine multiplies with the library and has kernels
for what lies between the products, which took less than half of the time on an H100 in float32. They are there to be
measured in other dtypes (``linear_relu_step`` of sgr-bench).
"""

import torch

from ..common import options as opt
from ..common.checks import loss_dtype
from ..common.comparison import numbers
from ..common.operator import Operator
from . import reference


def _kernels():
    from . import triton

    return triton


def _fake_delta(grad, output, weight, target, *options):
    batch = grad.shape[0]
    torch._check(weight.dim() == 2, lambda: f"linear_relu_delta expects weight (m, n), got {tuple(weight.shape)}")
    return (
        grad.new_empty((batch, weight.shape[1])),
        grad.new_empty((), dtype=loss_dtype(grad)),
        grad.new_empty((3, batch), dtype=torch.float64),
    )


def _fake_weight_grad(grad, output, x, delta, target, alpha, beta, factor, need_bias):
    m, n = grad.shape[1], x.shape[1]
    dtype = loss_dtype(grad)
    return grad.new_empty((m, n), dtype=dtype), grad.new_empty(m if need_bias else 0, dtype=dtype)


def _example_delta(dtype):
    for grad, output, _, _, target, *_ in _example_weight_grad(dtype):
        weight = numbers(grad.shape[1], target.shape[1], dtype=dtype, seed=7).round()
        yield grad, output, weight, target, *opt.Options(reduction="batchmean").arguments(grad)


def _example_weight_grad(dtype):
    """Small whole numbers, whose products are exact in every precision."""
    if dtype == torch.float64:
        return
    for batch, m, n in (21, 41, 57), (64, 64, 96):
        grad, output = (numbers(batch, m, dtype=dtype, seed=seed).sign() for seed in (0, 1))
        x, delta, target = (numbers(batch, n, dtype=dtype, seed=seed).round() for seed in (2, 3, 4))
        alpha, beta = (numbers(batch, dtype=torch.float64, seed=seed).sign() for seed in (5, 6))
        yield grad, output, x, delta, target, alpha, beta, 0.5, True


# grad, output (B, m), weight (m, n), target (B, n) -> delta (B, n) = A weight with A = grad * [output > 0]; loss and
# coef of sgr_loss
linear_relu_delta = Operator(
    f"linear_relu_delta(Tensor grad, Tensor output, Tensor weight, Tensor target, {opt.SCHEMA})"
    " -> (Tensor delta, Tensor loss, Tensor coef)",
    fake=_fake_delta,
    reference=reference.linear_relu_delta,
    triton=lambda *args: _kernels().linear_relu_delta(*args),
    compiled=False,
    example=_example_delta,
)
# grad, output (B, m), x, delta, target (B, n), alpha, beta (B,) -> grad_weight (m, n) = A^T (x + factor v) with
# A = grad * [output > 0] and v_b = alpha_b delta_b + beta_b target_b; grad_bias (m,) = sum_b A_b, or (0,)
linear_relu_weight_grad = Operator(
    "linear_relu_weight_grad(Tensor grad, Tensor output, Tensor x, Tensor delta, Tensor target, Tensor alpha,"
    " Tensor beta, float factor, bool need_bias) -> (Tensor grad_weight, Tensor grad_bias)",
    fake=_fake_weight_grad,
    reference=reference.linear_relu_weight_grad,
    triton=lambda *args: _kernels().linear_relu_weight_grad(*args),
    compiled=False,
    example=_example_weight_grad,
)
