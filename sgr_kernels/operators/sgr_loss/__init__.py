"""sgr_loss: the distance of two batches of gradients, and the coefficients of both of its gradients.

Operators see rows: (B, n) tensors with unit stride along a row. With the coefficients, dL/d delta_b is
alpha_b delta_b + beta_b target_b, and dL/d target_b is alpha_target_b target_b + beta_b delta_b.
Kernels: csrc/sgr_loss/kernel.cuh (CUDA) and kernel.h (CPU), :mod:`.triton`, :mod:`.reference`.
"""

import torch

from ..common import options as opt
from ..common.checks import loss_dtype
from ..common.comparison import numbers
from ..common.operator import Derivative, Operator
from . import reference


def _kernels():
    from . import triton

    return triton


def _fake_loss(delta, target, *options):
    torch._check(delta.dim() == 2, lambda: f"sgr_loss expects rows (B, n), got shape {tuple(delta.shape)}")
    loss = delta.new_empty((), dtype=loss_dtype(delta))
    return loss, delta.new_empty((4, delta.shape[0]), dtype=torch.float64)


def _fake_backward(grad_loss, delta, target, alpha, beta):
    return delta.new_empty(delta.shape)


def _save(ctx, inputs, output):
    delta, target, *ctx.numbers, floor_tensor, ctx.eps = inputs
    _, coef = output
    ctx.mark_non_differentiable(coef)
    ctx.save_for_backward(delta, target, coef, floor_tensor)


def _backward(ctx, alike, grad_loss, _grad_coef):
    """By the fused kernel; under create_graph by differentiable plain torch."""
    delta, target, coef, floor_tensor = ctx.saved_tensors
    need_delta, need_target = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled():
        # Views keep the two arguments apart even when the caller passed one tensor twice.
        views = delta.view_as(delta), target.view_as(target)
        wanted = [view for view, need in zip(views, (need_delta, need_target), strict=True) if need]
        loss = reference.sgr_loss(*views, opt.Options.of(*ctx.numbers, floor_tensor, ctx.eps))
        found = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
        grads = (next(found) if need else None for need in (need_delta, need_target))
    else:
        alpha, beta, alpha_target, _ = coef.unbind(0)
        kernel = alike(sgr_loss_backward)
        grads = (
            kernel(grad_loss, delta, target, alpha, beta) if need_delta else None,
            kernel(grad_loss, target, delta, alpha_target, beta) if need_target else None,
        )
    return *grads, None, None, None, None, None


def example(dtype, shapes=((3, 7), (2, 20_003))):
    """Unit rows; and distances, under a floor that only the device knows. Long rows take several blocks."""
    for shape in shapes:
        delta, target = numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1)
        yield delta, target, *opt.Options(reduction="batchmean").arguments(delta)
        floor = torch.tensor(2.0 * shape[1] ** 0.5, device="cpu", dtype=torch.float64)
        yield delta, target, *opt.Options(normalize=False, floor=floor).arguments(delta)


def example_of_rows(dtype):
    """Two batches of rows, and two coefficients for each row."""
    for shape in (3, 7), (2, 20_003):
        coefficients = (numbers(shape[0], dtype=torch.float64, seed=seed) for seed in (2, 3))
        yield numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1), *coefficients


def _example_backward(dtype):
    for rows in example_of_rows(dtype):
        yield torch.tensor(0.75, device="cpu", dtype=loss_dtype(rows[0])), *rows


# grad_loss * (alpha_b delta_b + beta_b target_b); exchange the arguments for the gradient of the target
sgr_loss_backward = Operator(
    "sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) -> Tensor",
    fake=_fake_backward,
    reference=reference.sgr_loss_backward,
    triton=lambda *args: _kernels().sgr_loss_backward(*args),
    example=_example_backward,
)
# coef: alpha, beta, alpha_target and |dL/d delta|, (4, B) float64
sgr_loss = Operator(
    f"sgr_loss(Tensor delta, Tensor target, {opt.SCHEMA}) -> (Tensor loss, Tensor coef)",
    fake=_fake_loss,
    reference=reference.sgr_loss_with_coefficients,
    triton=lambda *args: _kernels().sgr_loss(*args),
    derivative=Derivative(_save, _backward, (sgr_loss_backward,)),
    example=example,
)
