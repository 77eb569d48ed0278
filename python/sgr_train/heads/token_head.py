"""The classifier for transformers."""

from __future__ import annotations

from torch import Tensor, nn

import sgr_kernels as sk

from ..networks.network import Features
from . import register, require


class MeanToken(nn.Module):
    """(B, ..., C) -> (B, C): the mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


@register("tokens")
def tokens(features: Features, num_classes: int) -> nn.Module:
    """LayerNorm, mean over tokens, linear."""
    require("tokens", features, "tokens")
    layers = nn.Sequential(nn.LayerNorm(features.channels), MeanToken())
    return sk.CrossEntropyHead(nn.Linear(features.channels, num_classes), layers)
