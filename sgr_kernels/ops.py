"""Registration of the custom operators: schemas, fake kernels and autograd formulas, once for every backend.

The schemas live here and not in C++ because the Triton backend needs them where nothing was compiled; the shared
libraries only add implementations. Operators see rows: (B, n) tensors with unit stride along a row. Making rows of
arbitrary tensors, and checking arguments, is the business of :mod:`sgr_kernels.functional`.
"""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace

import torch

from . import reference

REDUCTIONS = ("mean", "batchmean", "sum")  # the operators take the index

_SCHEMAS = {
    # loss, and the coefficients (alpha, beta, alpha_target) of the two gradients, (3, B) float64
    "sgr_loss": "(Tensor delta, Tensor target, bool normalize, int reduction, float floor, Tensor? floor_tensor,"
    " float eps) -> (Tensor loss, Tensor coef)",
    # grad_loss * (alpha_b delta_b + beta_b target_b); exchange the arguments for the gradient of the target
    "sgr_loss_backward": "(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) -> Tensor",
    # loss and v = dL/d delta in one go
    "sgr_residual": "(Tensor delta, Tensor target, bool normalize, int reduction, float floor, Tensor? floor_tensor,"
    " float eps) -> (Tensor loss, Tensor v)",
}


def _fake_loss(delta, target, normalize, reduction, floor, floor_tensor, eps):
    torch._check(delta.dim() == 2, lambda: f"sgr_loss expects rows (B, n), got shape {tuple(delta.shape)}")
    loss = delta.new_empty((), dtype=reference.loss_dtype(delta))
    return loss, delta.new_empty((3, delta.shape[0]), dtype=torch.float64)


def _fake_loss_backward(grad_loss, delta, target, alpha, beta):
    return delta.new_empty(delta.shape)


def _fake_residual(delta, target, normalize, reduction, floor, floor_tensor, eps):
    dtype = reference.loss_dtype(delta)
    return delta.new_empty((), dtype=dtype), delta.new_empty(delta.shape, dtype=dtype)


_FAKES = {"sgr_loss": _fake_loss, "sgr_loss_backward": _fake_loss_backward, "sgr_residual": _fake_residual}


def _not_differentiable(name: str):
    def backward(ctx, *grads):
        raise RuntimeError(f"{name} has no derivative; differentiate sgr_kernels.sgr_loss instead")

    return backward


def _save_loss(ctx, inputs, output):
    delta, target, normalize, reduction, floor, floor_tensor, eps = inputs
    _, coef = output
    ctx.mark_non_differentiable(coef)
    ctx.save_for_backward(delta, target, coef, floor_tensor)
    ctx.options = (normalize, reduction, floor, eps)


def _loss_backward(operators):
    """First derivative of sgr_loss by the fused kernel; under create_graph by differentiable plain torch."""

    def backward(ctx, grad_loss, _grad_coef):
        delta, target, coef, floor_tensor = ctx.saved_tensors
        need_delta, need_target = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            grads = _differentiable_backward(ctx, grad_loss, delta, target, floor_tensor)
        else:
            alpha, beta, alpha_target = coef.unbind(0)
            kernel = partial(_below_autograd, operators.sgr_loss_backward, grad_loss)
            grads = (
                kernel(delta, target, alpha, beta) if need_delta else None,
                kernel(target, delta, alpha_target, beta) if need_target else None,
            )
        return *grads, None, None, None, None, None

    return backward


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


def _below_autograd(operator, *args):
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


def _differentiable(operator, setup_context, backward):
    """``operator`` with its autograd formula, registered with the dispatcher and, for eager code, as an autograd Function:
    the dispatcher's way through Python takes longer than a small problem."""
    torch.library.register_autograd(operator.name(), backward, setup_context=setup_context)

    def forward(ctx, *args):
        output = _below_autograd(operator, *args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(operator.name(), (torch.autograd.Function,), methods)

    def call(*args):
        return operator(*args) if torch.compiler.is_compiling() else function.apply(*args)

    return call


def _register(namespace: str) -> SimpleNamespace:
    """Define the operators of one namespace and return them as attributes; those with a derivative are called by
    ``differentiable_<name>``."""
    operators = SimpleNamespace()
    for name, schema in _SCHEMAS.items():
        qualified = f"{namespace}::{name}"
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, _FAKES[name])
        setattr(operators, name, getattr(getattr(torch.ops, namespace), name).default)
        if name != "sgr_loss":
            torch.library.register_autograd(qualified, _not_differentiable(name))
    operators.differentiable_sgr_loss = _differentiable(operators.sgr_loss, _save_loss, _loss_backward(operators))
    return operators


def _implement_in_triton(name: str) -> None:
    @torch.library.impl(f"sgr_triton::{name}", "CompositeExplicitAutograd")
    def kernel(*args):
        # Imported at the first call: importing triton costs a second, and it may be absent.
        return getattr(importlib.import_module("sgr_kernels.triton.sgr_loss"), name)(*args)


native = _register("sgr")
triton = _register("sgr_triton")
for _name in _SCHEMAS:
    _implement_in_triton(_name)
