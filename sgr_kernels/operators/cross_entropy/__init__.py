"""cross_entropy: the mean loss with its gradient and its Hessian, all formed without cancellation.

With p = softmax(logits) the gradient at the label is -sum_{k != y} p_k, never p_y - 1: for confident samples the latter
is rounding noise, and a normalised residual sees nothing but the direction.
Kernels: csrc/cross_entropy/kernel.cuh (CUDA) and cpu.cpp, :mod:`.triton`, :mod:`.reference`.
"""

import torch

from ..common.checks import loss_dtype
from ..common.comparison import numbers
from ..common.operator import Derivative, Operator
from . import reference


def _kernels():
    from . import triton

    return triton


def _fake(logits, labels):
    torch._check(logits.dim() == 2, lambda: f"cross_entropy expects logits (B, K), got shape {tuple(logits.shape)}")
    dtype = loss_dtype(logits)
    return logits.new_empty((), dtype=dtype), logits.new_empty(logits.shape, dtype=dtype)


def _fake_hvp(logits, labels, tangent):
    return logits.new_empty(logits.shape, dtype=loss_dtype(logits))


def _save(ctx, inputs, output):
    logits, labels = inputs
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(logits, labels, gradient)


def _backward(ctx, alike, grad_loss, _grad_gradient):
    """From the forward pass; under create_graph by differentiable plain torch."""
    logits, labels, gradient = ctx.saved_tensors
    if torch.is_grad_enabled():
        view = logits.view_as(logits)
        loss = reference.cross_entropy(view, labels)
        return *torch.autograd.grad(loss, view, grad_loss, create_graph=True), None
    return (grad_loss * gradient).to(logits.dtype), None


def _example(dtype):
    for batch, classes in (5, 10), (3, 300):
        yield numbers(batch, classes, dtype=dtype), torch.arange(batch, device="cpu") * 7 % classes


def _example_hvp(dtype):
    wide = loss_dtype(torch.empty(0, dtype=dtype, device="cpu"))
    for logits, labels in _example(dtype):
        yield logits, labels, numbers(*logits.shape, dtype=wide, seed=1)


# logits (B, K) with unit stride along a row, labels (B,) contiguous int64 -> the mean loss in nats, 0-d, and its
# gradient for the logits (B, K); both float32 (float64 for float64)
cross_entropy = Operator(
    "cross_entropy(Tensor logits, Tensor labels) -> (Tensor loss, Tensor gradient)",
    fake=_fake,
    reference=reference.cross_entropy_with_gradient,
    triton=lambda *args: _kernels().cross_entropy(*args),
    derivative=Derivative(_save, _backward),
    example=_example,
)
# Hessian of that loss for the logits, applied to tangent (B, K), in the dtype of the gradient
cross_entropy_hvp = Operator(
    "cross_entropy_hvp(Tensor logits, Tensor labels, Tensor tangent) -> Tensor",
    fake=_fake_hvp,
    reference=reference.cross_entropy_hvp,
    triton=lambda *args: _kernels().cross_entropy_hvp(*args),
    example=_example_hvp,
)
