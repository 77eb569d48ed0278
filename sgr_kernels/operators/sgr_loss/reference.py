"""sgr_loss in plain PyTorch: the definition, differentiable to any order, and the operators of the reference backend.

Everything is computed in float64: |delta| of a well classified sample is 1e-11 and less, and nearly parallel rows lose
their digits in float32.
"""

import torch
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.options import DEFAULT, Options


def sgr_loss(delta: Tensor, target: Tensor, options: Options = DEFAULT) -> Tensor:
    """Distance between two batches of gradients (Eq. 6, normalised per sample as in Algorithm 1).

    Shapes, dtypes and meaning as :func:`sgr_kernels.sgr_loss`.
    """
    if delta.numel() == 0:
        return (delta.sum() + target.sum()).to(loss_dtype(delta)) * 0.0
    d, g = (t.reshape(len(t), -1).double() for t in (delta, target))
    d_norm = _row_norm(d.detach())
    weight = _floor_weight(d_norm, options.floor)
    if options.normalize:
        dead = _dead(d_norm, _row_norm(g.detach()), options)
        weight = weight.masked_fill(dead, 0.0)
        d, g = _unit_rows(d, dead), _unit_rows(g, dead)
    distance = (d - g).square().sum(1)
    return ((weight * distance).sum() / _count(delta, options)).to(loss_dtype(delta))


def sgr_loss_with_coefficients(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::sgr_loss``."""
    options = Options.of(*arguments)
    return sgr_loss(delta, target, options), coefficients(delta, target, options)


def sgr_loss_backward(grad_loss: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Implementation of ``sgr_reference::sgr_loss_backward``."""
    return combine(delta, target, grad_loss.double() * alpha, grad_loss.double() * beta).to(delta.dtype)


def coefficients(delta: Tensor, target: Tensor, options: Options) -> Tensor:
    """alpha, beta, alpha_target and |dL/d delta| of rows (B, n): (4, B) float64."""
    if delta.numel() == 0:
        return delta.new_zeros((4, len(delta)), dtype=torch.float64)
    d, g = delta.double(), target.double()
    d_norm, g_norm = _row_norm(d), _row_norm(g)
    weight = 2 / _count(delta, options) * _floor_weight(d_norm, options.floor)
    if not options.normalize:
        return torch.stack((weight, -weight, weight, weight * _row_norm(d - g)))
    dead = _dead(d_norm, g_norm, options)
    distance = ((_unit_rows(d, dead) - _unit_rows(g, dead)).square().sum(1) / 2).clamp(max=2)  # 1 - cosine
    cosine = 1 - distance
    d_norm, g_norm = d_norm.masked_fill(dead, 1.0), g_norm.masked_fill(dead, 1.0)
    # alpha delta and beta target cancel where the two are parallel. Taking alpha from beta by the ratio of the norms
    # keeps their rounding errors together.
    ratio = g_norm / d_norm
    beta = -weight / d_norm.square() / ratio
    length = weight / d_norm * (distance * (2 - distance)).sqrt()
    rows = torch.stack((-beta * (cosine * ratio), beta, -beta * (cosine / ratio), length))
    return rows.masked_fill(dead, 0.0)


def combine(delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha_b delta_b + beta_b target_b in float64; 0 for a row without coefficients, whatever it holds."""
    nothing = (alpha == 0) & (beta == 0)
    rows = alpha[:, None] * delta.double() + beta[:, None] * target.double()
    return rows.masked_fill(nothing[:, None], 0.0)


def _count(delta: Tensor, options: Options) -> int:
    """What the sum over rows of squared distances is divided by."""
    return {"mean": delta.numel(), "batchmean": len(delta), "sum": 1}[options.reduction]


def _dead(d_norm: Tensor, g_norm: Tensor, options: Options) -> Tensor:
    # Ask for dead, never for live: comparisons with NaN are false, so that NaN rows go on and show.
    return (d_norm <= options.eps) | (g_norm <= options.eps)


def _row_norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _unit_rows(rows: Tensor, dead: Tensor) -> Tensor:
    # A dead row becomes a row of ones before anything is computed from it: no 0 / 0 and no 0 * inf in any derivative.
    rows = rows.masked_fill(dead[:, None], 1.0)
    return rows / _row_norm(rows)[:, None]


def _floor_weight(d_norm: Tensor, floor: float | Tensor) -> Tensor:
    # A number is filled in on the device: a copy from the host would stall a GPU, and no CUDA graph takes it.
    floor = floor.detach().double() if isinstance(floor, Tensor) else d_norm.new_full((), floor)
    return torch.where(floor > 0, (d_norm / floor).square().clamp(max=1.0), torch.ones_like(d_norm))
