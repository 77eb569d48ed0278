"""Every fused operation spelled in plain PyTorch: slow, transparent, differentiable to any order.

This is the ground truth of the tests and the backend of last resort. Nothing here calls a kernel of this package.
Section, equation and algorithm numbers are those of Yang et al., "Towards Interpretable Deep Local Learning with
Successive Gradient Reconciliation", ICML 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sgr_loss(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    """Distance between two batches of gradients (Eq. 6, normalised per sample as in Algorithm 1).

    Same contract as :func:`sgr_kernels.sgr_loss`. Everything is computed in float64: |delta| of a well classified
    sample is 1e-11 and less, and nearly parallel rows lose their digits in float32.
    """
    if delta.numel() == 0:
        return (delta.sum() + target.sum()).to(loss_dtype(delta)) * 0.0
    batch = delta.shape[0]
    d, g = delta.reshape(batch, -1).double(), target.reshape(batch, -1).double()
    d_norm = _row_norm(d.detach())
    weight = _floor_weight(d_norm, floor)
    if normalize:
        dead = (d_norm <= eps) | (_row_norm(g.detach()) <= eps)
        weight = weight.masked_fill(dead, 0.0)
        d, g = _unit_rows(d, dead), _unit_rows(g, dead)
    distance = (d - g).square().sum(1)
    count = {"mean": delta.numel(), "batchmean": batch, "sum": 1}[reduction]
    return ((weight * distance).sum() / count).to(loss_dtype(delta))


def sgr_residual(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """:func:`sgr_loss` and its gradient with respect to ``delta``, by autograd, without leaving a graph."""
    with torch.enable_grad():
        leaf = delta.detach().to(loss_dtype(delta)).requires_grad_()
        loss = sgr_loss(
            leaf, target.detach().to(leaf.dtype), normalize=normalize, reduction=reduction, floor=floor, eps=eps
        )
        (v,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), v


def algorithm1_step(
    body: nn.Module, head: nn.Module, x: Tensor, y: Tensor, delta_pre: Tensor | None, *, weight: float
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """One module of Algorithm 1, line by line, with a double backward. Adds into ``.grad`` of body and head.

    The printed algorithm stores delta_pre at k = 1 only; here every module hands it on, as its text demands.
    Returns (local loss, SGR loss or None, output x_k, delta dL_k/dx_k), all detached.
    """
    x = x.detach().requires_grad_()
    output = body(x)
    loss_cls = head(output, y)
    delta_out = torch.autograd.grad(loss_cls, output, retain_graph=True)[0].detach()
    if delta_pre is None:
        loss_cls.backward()
        return loss_cls.detach(), None, output.detach(), delta_out
    delta_now = torch.autograd.grad(loss_cls, x, retain_graph=True, create_graph=True)[0]
    delta_pre_norm = torch.flatten(delta_pre, 1)
    delta_pre_norm = delta_pre_norm / torch.sqrt(torch.sum(delta_pre_norm**2, dim=1, keepdim=True))
    delta_now_norm = torch.flatten(delta_now, 1)
    delta_now_norm = delta_now_norm / torch.sqrt(torch.sum(delta_now_norm**2, dim=1, keepdim=True))
    loss_sgr = nn.functional.mse_loss(delta_now_norm, delta_pre_norm)
    (loss_cls + weight * loss_sgr).backward()
    return loss_cls.detach(), loss_sgr.detach(), output.detach(), delta_out


def relu_backward(
    grad: Tensor, output: Tensor, features_last: bool, sum_features: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradient behind a ReLU, A = grad * [output > 0] of Eq. 35, and its sum over all but the features."""
    masked = torch.where(output <= 0, 0.0, grad)
    if not sum_features:
        return masked, None
    return masked, sum_but_features(masked, features_last).to(loss_dtype(grad))


def sum_but_features(tensor: Tensor, features_last: bool) -> Tensor:
    """(..., m) or (B, m, ...) -> (m,), accumulated in float32 at least."""
    features = tensor.movedim(-1 if features_last else 1, 0)
    return features.reshape(len(features), -1).sum(1, dtype=loss_dtype(tensor))


def pack_bits(mask: Tensor) -> Tensor:
    """Bool of any shape -> uint8 (ceil(n / 8),): bit i % 8 of byte i // 8 is element i, in row-major order."""
    padded = nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    return (padded * _bit_values(mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`pack_bits`."""
    return (bits.unsqueeze(1) & _bit_values(bits.device)).bool().view(-1)[: math.prod(shape)].view(shape)


def _bit_values(device: torch.device) -> Tensor:
    return torch.ones(8, dtype=torch.uint8, device=device) << torch.arange(8, dtype=torch.uint8, device=device)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of log(1 + sum_{k != y} exp(z_k - z_y)), whose gradient stays exact for confident samples.

    Same contract as :func:`sgr_kernels.cross_entropy`.
    """
    dtype, logits = loss_dtype(logits), logits.double()
    if logits.shape[1] == 1:
        return (0.0 * logits.square().mean()).to(dtype)
    target = labels.unsqueeze(1)
    own = logits.gather(1, target).squeeze(1)
    own = own.masked_fill(own == torch.inf, torch.nan)  # as torch: no probability can be told
    others = logits.scatter(1, target, -torch.inf)
    alone = others.eq(-torch.inf).all(1)  # every other class is masked: no 0 / 0 in any derivative
    log_odds = torch.logsumexp(others.masked_fill(alone.unsqueeze(1), 0.0), 1) - own
    return nn.functional.softplus(log_odds.masked_fill(alone, -torch.inf), threshold=100).mean().to(dtype)


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy` and its gradient for the logits, by autograd, without leaving a graph."""
    with torch.enable_grad():
        leaf = logits.detach().to(loss_dtype(logits)).requires_grad_()
        loss = cross_entropy(leaf, labels)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def cross_entropy_hvp(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """Hessian of :func:`cross_entropy` for the logits, applied to ``tangent``, by autograd."""
    with torch.enable_grad():
        leaf = logits.detach().to(loss_dtype(logits)).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(leaf, labels), leaf, create_graph=True)
        return torch.autograd.grad(gradient, leaf, tangent)[0]


def loss_dtype(delta: Tensor) -> torch.dtype:
    """Dtype of the loss and of the residual: float64 for float64 gradients, float32 for all others."""
    return torch.float64 if delta.dtype == torch.float64 else torch.float32


def _row_norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _unit_rows(rows: Tensor, dead: Tensor) -> Tensor:
    # A dead row becomes a row of ones before anything is computed from it: no 0 / 0 and no 0 * inf in any derivative.
    rows = rows.masked_fill(dead[:, None], 1.0)
    return rows / _row_norm(rows)[:, None]


def _floor_weight(d_norm: Tensor, floor: float | Tensor) -> Tensor:
    floor = torch.as_tensor(floor, dtype=torch.float64, device=d_norm.device).detach()
    return torch.where(floor > 0, (d_norm / floor).square().clamp(max=1.0), torch.ones_like(d_norm))
