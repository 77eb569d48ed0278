"""The local classifier of Belilovsky et al. (2019) with k = 2, which the paper takes for CIFAR."""

from __future__ import annotations

from torch import nn

import sgr_kernels as sk

from ..networks.network import Features
from . import register, require


@register("conv")
def conv(features: Features, num_classes: int) -> nn.Module:
    """3x3 convolution, BatchNorm, ReLU, average pool, linear; for maps."""
    require("conv", features, "maps")
    channels = features.channels
    layers = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    return sk.CrossEntropyHead(nn.Linear(channels, num_classes), layers)
