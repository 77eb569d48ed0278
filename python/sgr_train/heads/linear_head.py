"""A linear classifier and nothing else."""

from __future__ import annotations

import math

from torch import nn

import sgr_kernels as sk

from ..networks.network import Features
from . import register
from .token_head import MeanToken


@register("linear")
def linear(features: Features, num_classes: int, *, bias: bool = True, flatten: bool = False) -> nn.Module:
    """Average over positions and one linear layer.

    Args:
        bias: add a bias in the linear layer.
        flatten: take every position by itself, in the place of their average.
    """
    if flatten:
        return sk.CrossEntropyHead(nn.Linear(math.prod(features.shape), num_classes, bias), nn.Flatten())
    average = MeanToken() if features.kind == "tokens" else None  # maps are averaged by every head
    return sk.CrossEntropyHead(nn.Linear(features.channels, num_classes, bias), average)
