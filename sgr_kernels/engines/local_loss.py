"""The local loss at the end of a chain of blocks: its gradient, and its Hessian times a vector.

In closed form for cross entropy on a linear or ETF classifier (no graph is built); by autograd through the head alone
for any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import ops, reference
from ..backends import select
from ..functional.layers import cast_for_autocast, check_labels, with_unit_stride
from ..functional.pooling import average_positions
from ..modules import CrossEntropyHead, ETFClassifier
from ..torch_internals import has_hooks
from .common import check_scalar, trainable

Gradients = list[tuple[Tensor, Tensor]]  # (parameter, gradient)


class LocalLoss(Protocol):
    """Gradients and products are multiplied by the gradient scale."""

    loss: Tensor

    def gradient(self) -> tuple[Tensor, Gradients]:
        """dL/dy, and the gradients of the head's parameters."""
        ...

    def hvp(self, tangent: Tensor, weight: float | Tensor) -> tuple[Tensor, Gradients]:
        """Derivative of :meth:`gradient` along a change of y, times ``weight``."""
        ...


def local_loss(head: nn.Module | Callable, features: Tensor, labels, scale: float, second_order: bool) -> LocalLoss:
    """``second_order``: whether ``hvp`` will be called."""
    if has_closed_form(head):
        return _ClosedForm(head, features, labels, scale)
    return _Autograd(head, features, labels, scale, second_order)


def has_closed_form(head: nn.Module | Callable) -> bool:
    return (
        type(head) is CrossEntropyHead
        and head.features is None
        and type(head.classifier) in (ETFClassifier, nn.Linear)
        and runs_as_written(head)
        and runs_as_written(head.classifier)
    )


def runs_as_written(module: nn.Module) -> bool:
    """Whether calling the module does what its class says: it has no hooks and no ``forward`` of its own."""
    return not has_hooks(module) and "forward" not in vars(module)


class _ClosedForm:
    """z = pool(y) M^T + c, cross entropy of z."""

    def __init__(self, head: CrossEntropyHead, features: Tensor, labels: Tensor, scale: float) -> None:
        self.features = features
        self.weight = head.classifier.weight
        self.bias = getattr(head.classifier, "bias", None)
        check_labels(labels, len(features))
        self.labels = labels.contiguous()
        self.scale = scale
        self.matrix, self.pooled = cast_for_autocast(self.weight, average_positions(features))
        bias = None if self.bias is None else self.bias.to(self.matrix.dtype)
        self.logits = with_unit_stride(nn.functional.linear(self.pooled, self.matrix, bias))
        self.backend = select(self.logits)
        if self.backend == "reference":
            self.loss, grad = reference.cross_entropy_gradient(self.logits, self.labels)
        else:
            self.loss, grad = ops.of(self.backend).cross_entropy(self.logits, self.labels)
        self.grad = scale * grad  # for the logits

    def gradient(self) -> tuple[Tensor, Gradients]:
        gradients: Gradients = []
        if self.weight.requires_grad:
            gradients.append((self.weight, self._outer(self.grad, self.pooled)))
        if self.bias is not None and self.bias.requires_grad:
            gradients.append((self.bias, self.grad.sum(0)))
        return self._to_features(self.grad), gradients

    def hvp(self, tangent: Tensor, weight: float | Tensor) -> tuple[Tensor, Gradients]:
        pooled = average_positions(tangent).to(self.matrix.dtype)
        change = with_unit_stride(pooled @ self.matrix.T).to(self.grad.dtype)  # of the logits
        if self.backend == "reference":
            grad = reference.cross_entropy_hvp(self.logits, self.labels, change)
        else:
            grad = ops.of(self.backend).cross_entropy_hvp(self.logits, self.labels, change)
        grad = self.scale * weight * grad
        gradients: Gradients = []
        if self.weight.requires_grad:
            gradients.append((self.weight, self._outer(grad, self.pooled) + weight * self._outer(self.grad, pooled)))
        if self.bias is not None and self.bias.requires_grad:
            gradients.append((self.bias, grad.sum(0)))
        return self._to_features(grad), gradients

    def _outer(self, grad: Tensor, pooled: Tensor) -> Tensor:
        return grad.T @ pooled.to(grad.dtype)

    def _to_features(self, grad: Tensor) -> Tensor:
        """From the logits back to y, every position alike."""
        per_channel = grad.to(self.matrix.dtype) @ self.matrix
        if self.features.dim() == 2:
            return per_channel
        batch, channels, *positions = self.features.shape
        spread = per_channel / math.prod(positions)
        return spread.view(batch, channels, *[1] * len(positions)).expand_as(self.features)


class _Autograd:
    """Any head: a graph through the head alone."""

    def __init__(self, head, features: Tensor, labels, scale: float, second_order: bool) -> None:
        with torch.enable_grad():
            self.features = features.detach().requires_grad_()
            loss = head(self.features, labels)
            check_scalar(loss)
            self.parameters = trainable((head,), loss)
            wanted = [self.features, *self.parameters]
            self.grad, *self.parameter_grads = torch.autograd.grad(
                scale * loss, wanted, create_graph=second_order, allow_unused=True
            )
        self.loss = loss.detach()
        if self.grad is None:
            raise ValueError("the head's loss does not depend on the output of the body")

    def gradient(self) -> tuple[Tensor, Gradients]:
        return self.grad.detach(), _pairs(self.parameters, self.parameter_grads)

    def hvp(self, tangent: Tensor, weight: float | Tensor) -> tuple[Tensor, Gradients]:
        # The derivative of <grad, tangent> is that of the gradient along the tangent: second derivatives commute.
        if not self.grad.requires_grad:  # a loss that is linear in the output
            return torch.zeros_like(self.grad), []
        wanted = [self.features, *self.parameters]
        grad, *rest = torch.autograd.grad(self.grad, wanted, tangent.to(self.grad.dtype), allow_unused=True)
        change = torch.zeros_like(self.features) if grad is None else weight * grad
        return change, [(parameter, weight * gradient) for parameter, gradient in _pairs(self.parameters, rest)]


def _pairs(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> Gradients:
    return [(p, g.detach()) for p, g in zip(parameters, gradients, strict=True) if g is not None]
