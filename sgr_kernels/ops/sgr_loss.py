"""Operators of the residual. They see rows: (B, n) tensors with unit stride along a row.

Making rows of arbitrary tensors, and checking arguments, is the business of :mod:`sgr_kernels.functional`.
"""

from __future__ import annotations

from functools import partial

import torch

from .. import reference
from .registry import below_autograd, register

OPTIONS = "bool normalize, int reduction, float floor, Tensor? floor_tensor, float eps"
REDUCTIONS = ("mean", "batchmean", "sum")  # the operators take the index


def _fake_loss(delta, target, normalize, reduction, floor, floor_tensor, eps):
    torch._check(delta.dim() == 2, lambda: f"sgr_loss expects rows (B, n), got shape {tuple(delta.shape)}")
    loss = delta.new_empty((), dtype=reference.loss_dtype(delta))
    return loss, delta.new_empty((3, delta.shape[0]), dtype=torch.float64)


def _fake_loss_backward(grad_loss, delta, target, alpha, beta):
    return delta.new_empty(delta.shape)


def _fake_residual(delta, target, normalize, reduction, floor, floor_tensor, eps):
    dtype = reference.loss_dtype(delta)
    return delta.new_empty((), dtype=dtype), delta.new_empty(delta.shape, dtype=dtype)


def _fake_shift(x, delta, target, alpha, beta, factor):
    return x.new_empty(x.shape)


def _save_loss(ctx, inputs, output):
    delta, target, normalize, reduction, floor, floor_tensor, eps = inputs
    _, coef = output
    ctx.mark_non_differentiable(coef)
    ctx.save_for_backward(delta, target, coef, floor_tensor)
    ctx.options = (normalize, reduction, floor, eps)


def _loss_formula(operators):
    """First derivative of sgr_loss by the fused kernel; under create_graph by differentiable plain torch."""

    def backward(ctx, grad_loss, _grad_coef):
        delta, target, coef, floor_tensor = ctx.saved_tensors
        need_delta, need_target = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            grads = _differentiable_backward(ctx, grad_loss, delta, target, floor_tensor)
        else:
            alpha, beta, alpha_target = coef.unbind(0)
            kernel = partial(below_autograd, operators.sgr_loss_backward, grad_loss)
            grads = (
                kernel(delta, target, alpha, beta) if need_delta else None,
                kernel(target, delta, alpha_target, beta) if need_target else None,
            )
        return *grads, None, None, None, None, None

    return _save_loss, backward


def _differentiable_backward(ctx, grad_loss, delta, target, floor_tensor):
    normalize, reduction, floor, eps = ctx.options
    # Views keep the two arguments apart even when the caller passed one tensor twice.
    views = delta.view_as(delta), target.view_as(target)
    loss = reference.sgr_loss(
        *views,
        normalize=normalize,
        reduction=REDUCTIONS[reduction],
        floor=floor if floor_tensor is None else floor_tensor,
        eps=eps,
    )
    wanted = [view for view, need in zip(views, ctx.needs_input_grad, strict=False) if need]
    grads = iter(torch.autograd.grad(loss, wanted, grad_loss, create_graph=True))
    return tuple(next(grads) if need else None for need in ctx.needs_input_grad[:2])


# grad_loss * (alpha_b delta_b + beta_b target_b); exchange the arguments for the gradient of the target
register(
    "sgr_loss_backward",
    "(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) -> Tensor",
    _fake_loss_backward,
    triton_file="sgr_loss",
)
# loss, and the coefficients (alpha, beta, alpha_target) of the two gradients, (3, B) float64
register(
    "sgr_loss",
    f"(Tensor delta, Tensor target, {OPTIONS}) -> (Tensor loss, Tensor coef)",
    _fake_loss,
    formula=_loss_formula,
    triton_file="sgr_loss",
)
# loss and v = dL/d delta in one go
register(
    "sgr_residual",
    f"(Tensor delta, Tensor target, {OPTIONS}) -> (Tensor loss, Tensor v)",
    _fake_residual,
    triton_file="sgr_loss",
)
# x + factor * (alpha_b delta_b + beta_b target_b), with the coefficients of sgr_loss: x + factor * v without v
register(
    "sgr_shift",
    "(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, float factor) -> Tensor",
    _fake_shift,
    triton_file="sgr_shift",
)
