"""The convolutional network of PEPITA (Dellaferrera & Kreiman 2022), on which Table 4's FA, DRTP, PEPITA rows stand."""

from __future__ import annotations

from torch import nn

from . import register


@register("pepita_conv", head="linear")
def pepita_conv(image_shape: tuple[int, int, int]) -> list[nn.Module]:
    """One 5x5 convolution without bias, ReLU, max-pool; with --flatten and --no-bias the head is that of the paper."""
    return [nn.Sequential(nn.Conv2d(image_shape[0], 32, 5, bias=False), nn.ReLU(), nn.MaxPool2d(2))]
