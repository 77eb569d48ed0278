"""row_dot in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..common.checks import loss_dtype


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """<a_b, b_b>, (B,)."""
    return (a.double() * b.double()).sum(1).to(loss_dtype(a))


def row_dot_backward(grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of ``a`` and ``b``, each rounded once."""
    grad = grad.double().unsqueeze(1)
    return (grad * b.double()).to(a.dtype), (grad * a.double()).to(b.dtype)
