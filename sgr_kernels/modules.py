"""Modules around :mod:`sgr_kernels.functional`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import functional


class SGRLoss(nn.Module):
    """``weight * sgr_loss(delta, target)``: the regulariser of Eq. 5, a drop-in for the MSE of Algorithm 1.

    Args:
        weight: the paper's lambda. Its useful size depends on ``reduction``: lambda under "batchmean" is lambda * n
            under "mean", n being the number of elements of one sample.
        normalize, reduction, floor, eps: as in :func:`sgr_kernels.sgr_loss`.

    Shape:
        delta, target: (B, ...); result: 0-d, float32 (float64 for float64 input).
    """

    def __init__(
        self,
        weight: float = 1.0,
        normalize: bool = True,
        reduction: str = "mean",
        floor: float | Tensor = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        functional.check_options(reduction, eps)
        self.weight = weight
        self.normalize = normalize
        self.reduction = reduction
        self.floor = floor
        self.eps = eps

    def forward(self, delta: Tensor, target: Tensor) -> Tensor:
        loss = functional.sgr_loss(
            delta, target, normalize=self.normalize, reduction=self.reduction, floor=self.floor, eps=self.eps
        )
        return self.weight * loss

    def extra_repr(self) -> str:
        return f"weight={self.weight}, normalize={self.normalize}, reduction={self.reduction!r}"


class ETFClassifier(nn.Module):
    """Fixed linear classifier whose rows form a simplex equiangular tight frame (Eq. 7). Nothing in it is learned.

    Args:
        num_classes: K >= 2.
        num_features: d >= K - 1.
        generator: source of the random rotation.

    Shape:
        input: (..., d); output: logits (..., K).
    """

    weight: Tensor

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        weight = functional.etf_classifier(num_classes, num_features, generator=generator, dtype=dtype, device=device)
        self.register_buffer("weight", weight)

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight)

    def extra_repr(self) -> str:
        num_classes, num_features = self.weight.shape
        return f"num_classes={num_classes}, num_features={num_features}"
