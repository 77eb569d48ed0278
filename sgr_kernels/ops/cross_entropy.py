"""Cross entropy with its gradient and its Hessian, both formed without cancellation.

With p = softmax(logits) the gradient at the label is -sum_{k != y} p_k, never p_y - 1: for confident samples the latter
is rounding noise, and a normalised residual sees nothing but the direction.
"""

from __future__ import annotations

import torch

from .. import reference
from .registry import register


def _fake_cross_entropy(logits, labels):
    torch._check(logits.dim() == 2, lambda: f"cross_entropy expects logits (B, K), got shape {tuple(logits.shape)}")
    dtype = reference.loss_dtype(logits)
    return logits.new_empty((), dtype=dtype), logits.new_empty(logits.shape, dtype=dtype)


def _fake_hvp(logits, labels, tangent):
    return logits.new_empty(logits.shape, dtype=reference.loss_dtype(logits))


def _save(ctx, inputs, output):
    logits, labels = inputs
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(logits, labels, gradient)


def _formula(operators):
    """First derivative from the forward pass; under create_graph by differentiable plain torch."""

    def backward(ctx, grad_loss, _grad_gradient):
        logits, labels, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            view = logits.view_as(logits)
            loss = reference.cross_entropy(view, labels)
            return *torch.autograd.grad(loss, view, grad_loss, create_graph=True), None
        return (grad_loss * gradient).to(logits.dtype), None

    return _save, backward


# mean loss in nats, and its gradient for the logits (B, K); both float32 (float64 for float64)
register(
    "cross_entropy",
    "(Tensor logits, Tensor labels) -> (Tensor loss, Tensor gradient)",
    _fake_cross_entropy,
    formula=_formula,
    triton_file="cross_entropy",
)
# Hessian of that loss with respect to the logits, applied to tangent (B, K), in the dtype of the gradient
register(
    "cross_entropy_hvp",
    "(Tensor logits, Tensor labels, Tensor tangent) -> Tensor",
    _fake_hvp,
    triton_file="cross_entropy",
)
