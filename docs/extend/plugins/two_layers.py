"""A head: two linear layers on the average over positions."""

from __future__ import annotations

from sgr_train.heads import register, require
from torch import nn

import sgr_kernels as sk


@register("two_layers")
def two_layers(features, num_classes, *, hidden: int = 32) -> nn.Module:
    """Average pool, linear, ReLU, linear; for maps.

    Args:
        hidden: units between the two.
    """
    require("two_layers", features, "maps")
    layers = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features.channels, hidden), nn.ReLU()]
    return sk.CrossEntropyHead(nn.Linear(hidden, num_classes), nn.Sequential(*layers))
