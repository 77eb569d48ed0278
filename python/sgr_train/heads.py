"""Local classifiers: what turns a module's output into its local loss."""

from __future__ import annotations

from torch import nn

import sgr_kernels as sk

from .errors import UsageError


def conv_head(channels: int, num_classes: int) -> sk.CrossEntropyHead:
    """3x3 conv, BN, ReLU, average pool, linear (Belilovsky et al. 2019 with k = 2)."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    features = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
    return sk.CrossEntropyHead(nn.Linear(channels, num_classes), features)


def etf_head(channels: int, num_classes: int) -> sk.CrossEntropyHead:
    """Average pool and a fixed equiangular tight frame (Eq. 7): nothing to learn, no back propagation inside."""
    if num_classes < 2:
        raise UsageError(
            f"--head etf needs data with at least 2 classes, got {num_classes}; change --data or use --head conv"
        )
    try:
        return sk.CrossEntropyHead(sk.ETFClassifier(num_classes, channels))
    except ValueError as error:
        raise UsageError(f"--head etf needs wider modules (--width) or --head conv: {error}") from error
