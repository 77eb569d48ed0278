"""VGG of any depth (Table 7)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..errors import UsageError
from ..options import Count
from . import register
from .layers import ConvBlock

GROWTH = (1, 2, 4, 8, 8)  # of the channels, by stage


@register("vgg")
def vgg(
    image_shape: tuple[int, int, int],
    *,
    depth: Count = 12,
    width: Count = 64,
    norm: Literal["batch", "none"] = "batch",
) -> list[list[nn.Module]]:
    """Five stages of equally many convolutions, a max-pool after each: our reading of Table 7's d.

    Args:
        depth: d = 5 s + 2, for s convolutions a stage; the 2 are the classifier's. The paper has 12, 17, 27 ... 57.
        width: channels of the first stage.
        norm: what stands between convolution and ReLU.

    Raises:
        UsageError: no such depth.
    """
    count, left = divmod(depth - 2, len(GROWTH))
    if left or count < 1:
        raise UsageError(f"--depth of vgg must be 5 s + 2 (7, 12, 17 ...), got {depth}")
    stages, inputs = [], image_shape[0]
    for growth in GROWTH:
        blocks: list[nn.Module] = []
        channels = growth * width
        for _ in range(count):
            blocks.append(ConvBlock(inputs, channels, norm=norm == "batch"))
            inputs = channels
        blocks[-1].append(nn.MaxPool2d(2))
        stages.append(blocks)
    return stages
