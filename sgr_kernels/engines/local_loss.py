"""The local loss L at the end of a chain of blocks: its gradient, and its Hessian times a vector (hvp).

Both are computed for the features, which are the output of the chain, (B, m) or (B, m, ...) with positions, and for the
parameters of the head. Both are multiplied by the gradient scale.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..double_backward import differentiated_twice
from ..functional.cross_entropy import check_labels
from ..functional.relu_layers import cast_for_autocast
from ..functional.rows import with_unit_stride
from ..modules import CrossEntropyHead, ETFClassifier, average_positions
from ..operators.common.checks import check_device
from ..operators.cross_entropy import cross_entropy, cross_entropy_hvp
from ..torch_internals import has_hooks
from .common import leaves_of, loss_of
from .head_check import FirstRun, is_first_run

Gradients = list[tuple[Tensor, Tensor]]  # (parameter, gradient)


def local_loss(head: nn.Module | Callable, features: Tensor, labels, scale: float, second_order: bool) -> LocalLoss:
    """L of ``head`` at ``features``; ``second_order``: whether ``hvp`` will be called."""
    if (
        type(head) is CrossEntropyHead
        and (head.features is None or flattens(head.features))
        and not head.is_soft(labels)
        and type(head.classifier) in (ETFClassifier, nn.Linear)
        and runs_as_written(head)
        and runs_as_written(head.classifier)
    ):
        return ClosedFormLoss(head, features, labels, scale)
    return AutogradLoss(head, features, labels, scale, second_order)


def flattens(features: nn.Module) -> bool:
    """Whether it does nothing but lay out all channels and positions of a sample in one row."""
    is_whole = type(features) is nn.Flatten and (features.start_dim, features.end_dim) == (1, -1)
    return is_whole and runs_as_written(features)


def runs_as_written(module: nn.Module) -> bool:
    """Whether calling the module does what its class says: it has no hooks, no ``forward`` of its own, and its weights
    are not computed from others.
    """
    own = vars(module)
    computed = not (getattr(own.get("weight"), "is_leaf", True) and getattr(own.get("bias"), "is_leaf", True))
    return not (has_hooks(module) or "forward" in own or computed)


class ClosedFormLoss:
    """Cross entropy of the logits r M^T + c, without a graph. The rows r, (B, m), are the features averaged over
    positions or, where the head flattens them, all of them. ``grad`` is that of the logits, (B, K).
    """

    def __init__(self, head: CrossEntropyHead, features: Tensor, labels: Tensor, scale: float) -> None:
        self.shape = features.shape
        self.flat = head.features is not None
        self.weight = head.classifier.weight
        self.bias = getattr(head.classifier, "bias", None)
        check_labels(labels, len(features))
        check_device("labels", labels, "the output of the body", features)
        self.labels = labels.contiguous()
        self.scale = scale
        self.matrix, self.rows = cast_for_autocast(self.weight, self._rows_of(features))
        bias = None if self.bias is None else self.bias.to(self.matrix.dtype)
        self.logits = with_unit_stride(nn.functional.linear(self.rows, self.matrix, bias))
        self.loss, grad = cross_entropy(self.logits, self.labels)
        self.grad = scale * grad

    def gradient(self) -> tuple[Tensor, Gradients]:
        return self._for_features(self.grad), self._for_parameters(self.grad)

    def hvp(self, tangent: Tensor) -> tuple[Tensor, Gradients]:
        """The derivative of :meth:`gradient` along ``tangent``, a change of the features of their shape."""
        rows = self._rows_of(tangent).to(self.matrix.dtype)
        change = with_unit_stride(rows @ self.matrix.T).to(self.grad.dtype)  # of the logits
        hvp = self.scale * cross_entropy_hvp(self.logits, self.labels, change)
        return self._for_features(hvp), self._for_parameters(hvp, rows)

    def check(self) -> None:
        """It is right by construction."""

    def _rows_of(self, features: Tensor) -> Tensor:
        return features.flatten(1) if self.flat else average_positions(features)

    def _for_features(self, grad: Tensor) -> Tensor:
        """From ``grad`` for the logits, (B, K), to that for the features; averages spread it evenly over positions."""
        of_rows = grad.to(self.matrix.dtype) @ self.matrix
        if self.flat or len(self.shape) == 2:
            return of_rows.view(self.shape)
        batch, channels, *positions = self.shape
        spread = of_rows / math.prod(positions)
        return spread.view(batch, channels, *[1] * len(positions)).expand(self.shape)

    def _for_parameters(self, grad: Tensor, change: Tensor | None = None) -> Gradients:
        """From ``grad`` for the logits, (B, K), to those for M and c.

        Args:
            change: (B, m) of the rows, for the second term of the derivative for M.
        """
        gradients: Gradients = []
        if self.weight.requires_grad:
            of_weight = grad.T @ self.rows.to(grad.dtype)
            if change is not None:
                of_weight = of_weight + self.grad.T @ change.to(grad.dtype)
            gradients.append((self.weight, of_weight))
        if self.bias is not None and self.bias.requires_grad:
            gradients.append((self.bias, grad.sum(0)))
        return gradients


class AutogradLoss:
    """The loss of any head, with a graph through the head alone. Methods as those of :class:`ClosedFormLoss`."""

    def __init__(self, head, features: Tensor, labels, scale: float, second_order: bool) -> None:
        with torch.enable_grad():
            self.features = features.detach().requires_grad_()
            self.first_run = FirstRun(head, self.features) if second_order and is_first_run(head, features) else None
            with (
                differentiated_twice() if second_order else contextlib.nullcontext(),
                self.first_run or contextlib.nullcontext(),
            ):
                loss = loss_of(head, self.features, labels)
            self.parameters = leaves_of(loss, self.features)
            wanted = [self.features, *self.parameters]
            self.grad, *self.parameter_grads = torch.autograd.grad(
                scale * loss, wanted, create_graph=second_order, allow_unused=True
            )
        self.loss = loss.detach()
        if self.grad is None:
            raise ValueError(
                "the head's loss does not depend on the output of the body, a tensor of shape "
                f"{tuple(features.shape)}: compute it from the first argument of the head, without detach()"
            )
        self.loss_at = lambda features: loss_of(head, features, labels)
        self.scale = scale

    def gradient(self) -> tuple[Tensor, Gradients]:
        return self.grad.detach(), self._for_parameters(self.parameter_grads)

    def hvp(self, tangent: Tensor) -> tuple[Tensor, Gradients]:
        # The derivative of <grad, tangent> is that of the gradient along the tangent: second derivatives commute.
        if not self.grad.requires_grad:  # a loss that is linear in the output
            return torch.zeros_like(self.grad), []
        wanted = [self.features, *self.parameters]
        hvp, *of_parameters = torch.autograd.grad(self.grad, wanted, tangent.to(self.grad.dtype), allow_unused=True)
        hvp = torch.zeros_like(self.features) if hvp is None else hvp.detach()
        return hvp, self._for_parameters(of_parameters)

    def check(self) -> None:
        """After all else, since it repeats the run: raises RuntimeError where the gradient is not that of the loss."""
        if self.first_run is not None:
            self.first_run.check(self.loss_at, self.grad / self.scale, self.loss)

    def _for_parameters(self, gradients: list[Tensor | None]) -> Gradients:
        return [(p, g.detach()) for p, g in zip(self.parameters, gradients, strict=True) if g is not None]


LocalLoss = ClosedFormLoss | AutogradLoss
