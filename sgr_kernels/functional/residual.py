"""The residual: argument checks, layout, choice of backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops, reference
from ..backends import select
from .checks import check_floating, check_like


def sgr_loss(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    r"""Successive-gradient-reconciliation loss: per-sample (normalised) squared distance of two gradients.

    With rows flattened to :math:`\delta_b, g_b \in R^n` and their cosine :math:`c_b`, ``reduction="mean"`` gives
    :math:`\frac{2}{Bn}\sum_b w_b (1 - c_b)`, the loss of Algorithm 1 in Yang et al. 2024; ``"batchmean"`` gives
    :math:`\frac{2}{B}\sum_b w_b (1 - c_b)` (Eq. 6 per sample) and ``"sum"`` :math:`2\sum_b w_b (1 - c_b)`.

    Differentiable in both arguments, to any order. Autocast leaves it alone: it accumulates in float64 anyway.

    Args:
        delta: (B, ...) gradient of the current module with respect to its input; float64, float32, bfloat16 or float16,
            any strides.
        target: same shape, dtype and device; the gradient the previous module had for its output.
        normalize: compare directions. A row whose norm (in either argument) is at most ``eps`` is dead: it adds
            nothing and gets gradient 0. ``False`` compares the gradients themselves (Eqs. 6 and 35 as printed).
        reduction: "mean", "batchmean" or "sum".
        floor: a norm, in the units of ``delta``; rows with a smaller norm fade out with weight
            :math:`w_b = \min(1, (|\delta_b| / floor)^2)`, a constant in every derivative. 0 switches it off.
            Number or 0-d tensor.
        eps: norm at or below which a row is dead.

    Returns:
        0-d loss, float32 (float64 for float64 input).

    Raises:
        TypeError: an argument is not a floating-point tensor of a supported dtype, or the dtypes differ.
        ValueError: shapes or devices differ, a scalar was given, or an option is out of range.
    """
    floor = _check(delta, target, reduction, floor, eps)
    name = select(delta)
    if name == "reference":
        return reference.sgr_loss(delta, target, normalize=normalize, reduction=reduction, floor=floor, eps=eps)
    operators = ops.of(name)
    options = _options(normalize, reduction, floor, eps, delta)
    loss, _ = operators.differentiable_sgr_loss(*_rows(delta, target), *options)
    return loss


def sgr_residual(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """:func:`sgr_loss` and its gradient v = dL/d delta in one pass over the data, without an autograd graph.

    Args and errors: as :func:`sgr_loss`.

    Returns:
        ``(loss, v)``: the 0-d loss, and v of the shape of ``delta``, float32 (float64 for float64 input).
    """
    floor = _check(delta, target, reduction, floor, eps)
    delta, target = delta.detach(), target.detach()
    name = select(delta)
    if name == "reference":
        return reference.sgr_residual(delta, target, normalize=normalize, reduction=reduction, floor=floor, eps=eps)
    operators = ops.of(name)
    rows, target_rows = _rows(delta, target)
    loss, v = operators.sgr_residual(rows, target_rows, *_options(normalize, reduction, floor, eps, delta))
    return loss, _unrows(v, delta)


def sgr_direction(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool,
    reduction: str,
    floor: float | Tensor,
    eps: float = 1e-12,
) -> tuple[Tensor, Direction]:
    """:func:`sgr_residual` with v not in memory, but as a direction to go. Args and errors as there."""
    options = {"normalize": normalize, "reduction": reduction, "floor": _check(delta, target, reduction, floor, eps)}
    delta, target = delta.detach(), target.detach()
    name = select(delta)
    if name == "reference":
        loss, v = reference.sgr_residual(delta, target, **options, eps=eps)
        one, zero = (torch.full((len(v),), c, dtype=torch.float64, device=v.device) for c in (1.0, 0.0))
        return loss, Direction(v, v, one, zero, lambda: row_norms(v))
    rows, options = _rows(delta, target), _options(normalize, reduction, options["floor"], eps, delta)
    loss, coef = ops.of(name).sgr_loss(*rows, *options)
    return loss, Direction(delta, target, coef[0], coef[1], lambda: _norms(delta, target, coef, normalize))


@dataclass(frozen=True)
class Direction:
    """The rows v_b = alpha_b delta_b + beta_b target_b of the gradient of an SGR loss.

    Attributes:
        alpha, beta: (B,) float64.
        norms: |v_b|, (B,) float64, computed when called.
    """

    delta: Tensor
    target: Tensor
    alpha: Tensor
    beta: Tensor
    norms: Callable[[], Tensor]

    def shift(self, x: Tensor, step: float | Tensor) -> Tensor:
        """x + step * v, without v in memory: in half precision it may overflow where the sum does not.

        ``x`` has shape and dtype of ``delta``, ``step`` is a number or a 0-d float64 tensor.
        """
        alpha, beta = (self.alpha, self.beta) if isinstance(step, float) else (step * self.alpha, step * self.beta)
        name = select(x)
        if name == "reference":
            a, b = (c.view(-1, *[1] * (x.dim() - 1)) for c in (alpha, beta))
            v = a * self.delta.double() + b * self.target.double()
            return (x + (step * v if isinstance(step, float) else v)).to(x.dtype)
        order = _storage_order(x)
        rows = [_as_rows(t, order) if x.dim() > 1 else t.unsqueeze(1) for t in (x, self.delta, self.target)]
        return _unrows(ops.of(name).sgr_shift(*rows, alpha, beta, step if isinstance(step, float) else 1.0), x)


def _norms(delta: Tensor, target: Tensor, coef: Tensor, normalize: bool) -> Tensor:
    """|v_b| from the coefficients: v = s w (c delta^ - target^) / |delta| is as long as beta target, times the sine."""
    alpha, beta, alpha_target = coef
    if not normalize:
        return alpha * row_norms(delta - target)
    cosine = (alpha * alpha_target).sqrt() / beta
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    return torch.where(beta == 0, 0.0, -beta * row_norms(target) * sine)  # no coefficients: a dead row


def row_norms(tensor: Tensor) -> Tensor:
    """|row_b|, (B,) float64.

    Kernels accumulate in float64 what torch would have to convert first. They give the norms of rows as coefficients of
    the distance of the rows from themselves: alpha = s / |row|^2, or 0.
    """
    name = select(tensor)
    if name == "reference":
        return torch.linalg.vector_norm(tensor.double().flatten(1) if tensor.dim() > 1 else tensor[:, None], dim=1)
    rows, _ = _rows(tensor, tensor)
    _, (alpha, _, _) = ops.of(name).sgr_loss(rows, rows, *_options(True, "sum", 0.0, 0.0, tensor))
    return torch.where(alpha == 0, 0.0, (2 / alpha).sqrt())


def _check(delta: Tensor, target: Tensor, reduction: str, floor: float | Tensor, eps: float) -> float | Tensor:
    """Refuse what has no meaning; return ``floor`` as a float or as a detached 0-d float64 tensor."""
    for name, tensor in (("delta", delta), ("target", target)):
        check_floating(name, tensor)
        if tensor.dim() == 0:
            raise ValueError(f"{name} must have a batch dimension, got a scalar")
    if delta.shape != target.shape:
        raise ValueError(f"target must have the shape of delta {tuple(delta.shape)}, got {tuple(target.shape)}")
    check_like("target", target, "delta", delta)
    check_options(reduction, eps)
    if not isinstance(floor, Tensor):
        if not floor >= 0:
            raise ValueError(f"floor must be a norm >= 0, got {floor}")
        return float(floor)
    if floor.dim() != 0:
        raise ValueError(f"floor must be a number or a 0-d tensor, got shape {tuple(floor.shape)}")
    return floor.detach().to(device=delta.device, dtype=torch.float64)


def check_options(reduction: str, eps: float) -> None:
    if reduction not in ops.REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(ops.REDUCTIONS)}, got {reduction!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, got {eps}")


def _options(normalize: bool, reduction: str, floor: float | Tensor, eps: float, delta: Tensor) -> tuple:
    tensor = floor if isinstance(floor, Tensor) else None
    number = 0.0 if isinstance(floor, Tensor) else floor
    return normalize, ops.REDUCTIONS.index(reduction), number, tensor, eps


def _storage_order(tensor: Tensor) -> list[int]:
    """Dimensions after the batch, slowest first, as they lie in memory."""
    order: list[int] = []
    for dim in range(1, tensor.dim()):  # an insertion sort: torch.compile cannot trace sorted() on symbolic strides
        place = len(order)
        while place > 0 and tensor.stride(order[place - 1]) < tensor.stride(dim):
            place -= 1
        order.insert(place, dim)
    return order


def _rows(delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors as (B, n) with unit stride along a row, elements paired up; views where their layouts agree."""
    if delta.dim() == 1:
        return delta.unsqueeze(1), target.unsqueeze(1)
    order = _storage_order(delta)
    return _as_rows(delta, order), _as_rows(target, order)


def _as_rows(tensor: Tensor, order: list[int]) -> Tensor:
    if order != sorted(order):  # views cost microseconds, which small problems notice
        tensor = tensor.permute([0, *order])
    rows = tensor.flatten(1)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_rows` for a result of the shape of ``like``."""
    if like.dim() == 1:
        return rows.squeeze(1)
    order = [0, *_storage_order(like)]
    inverse = sorted(range(like.dim()), key=order.__getitem__)
    return rows.view([like.shape[dim] for dim in order]).permute(inverse)
