"""Local classifiers: what turns a module's output into its local loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sgr_kernels as sk

from .errors import UsageError


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy, log(1 + sum_{k != y} exp(z_k - z_y)), whose gradient stays exact for confident samples.

    The gradient for z_y is minus the sum of the other probabilities. The usual p_y - 1 cancels where p_y is near 1, and
    then the *direction* of the gradient, which is all that a normalised SGR loss sees, is rounding noise.

    Args:
        logits: (B, K) floating point.
        labels: (B,) int64.

    Returns:
        0-d loss in nats.
    """
    target = labels.unsqueeze(1)
    margins = logits - logits.gather(1, target)
    others = torch.arange(logits.shape[1], device=logits.device) != target
    return F.softplus(torch.logsumexp(margins.masked_fill(~others, -torch.inf), 1)).mean()


class Head(nn.Module):
    """Features, pooled over space if there is any, classified, compared with the labels.

    Shape:
        x: (B, C, H, W) or (B, C); labels: (B,); result: 0-d local loss L_k.
    """

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def logits(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.flatten(2).mean(2) if x.dim() > 2 else x)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.logits(x), labels)


def conv_head(channels: int, num_classes: int) -> Head:
    """3x3 conv, BN, ReLU, average pool, linear (Belilovsky et al. 2019 with k = 2)."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return Head(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()), nn.Linear(channels, num_classes))


def etf_head(channels: int, num_classes: int) -> Head:
    """Average pool and a fixed equiangular tight frame (Eq. 7): nothing to learn, no back propagation inside."""
    try:
        return Head(nn.Identity(), sk.ETFClassifier(num_classes, channels))
    except ValueError as error:
        raise UsageError(f"--head etf needs wider modules (--width) or --head conv: {error}") from error
