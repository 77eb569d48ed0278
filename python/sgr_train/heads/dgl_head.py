"""The convolutional auxiliary network of decoupled greedy learning (Belilovsky et al. 2020)."""

from __future__ import annotations

from torch import nn

import sgr_kernels as sk

from ..networks.network import Features
from . import register, require


@register("dgl")
def dgl(features: Features, num_classes: int) -> nn.Module:
    """Two 3x3 convolutions with BatchNorm and ReLU, average pool to 2x2, BatchNorm, linear; for maps."""
    require("dgl", features, "maps")
    width = features.channels
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(width), nn.Flatten()]
    return sk.CrossEntropyHead(nn.Linear(4 * width, num_classes), nn.Sequential(*layers, *pool))
