"""The multi-layer perceptron."""

from __future__ import annotations

import math

from torch import nn

from ..options import Count
from . import register
from .layers import keep_variance


class LinearBlock(nn.Sequential):
    """Linear, ReLU; the first one flattens the image."""

    def __init__(self, in_features: int, out_features: int, first: bool) -> None:
        flatten = [nn.Flatten()] if first else []
        super().__init__(*flatten, keep_variance(nn.Linear(in_features, out_features)), nn.ReLU())


@register("mlp", head="etf")
def mlp(image_shape: tuple[int, int, int], *, depth: Count = 6, width: Count = 16) -> list[nn.Module]:
    """Linear layers with ReLU, all of one width.

    Args:
        depth: number of layers.
        width: units of each.
    """
    sizes = [math.prod(image_shape), *[width] * depth]
    return [LinearBlock(sizes[i], sizes[i + 1], first=i == 0) for i in range(depth)]
