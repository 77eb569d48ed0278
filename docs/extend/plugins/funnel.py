"""A network: convolutions of which every one halves the resolution."""

from __future__ import annotations

from sgr_train.networks import register
from torch import nn


@register("funnel", head="two_layers")
def funnel(image_shape, *, width: int = 16) -> list[nn.Module]:
    """Three convolutions with ReLU, each with stride 2.

    Args:
        width: channels of the first one; the others have twice and four times as many.
    """
    sizes = [image_shape[0], width, 2 * width, 4 * width]
    pairs = zip(sizes, sizes[1:], strict=False)
    return [nn.Sequential(nn.Conv2d(a, b, 3, 2, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs]
