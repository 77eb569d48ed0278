"""PlainNet, the paper's network without branches (Table 4)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..options import Count
from . import register
from .layers import ConvBlock


@register("plainnet", head="etf")
def plainnet(
    image_shape: tuple[int, int, int], *, depth: Count = 6, width: Count = 16, norm: Literal["batch", "none"] = "batch"
) -> list[list[nn.Module]]:
    """Convolutions with ReLU in three stages of width, 2 width, 4 width channels; a new stage begins with stride 2.

    Args:
        depth: number of convolutions.
        width: channels of the first stage.
        norm: what stands between convolution and ReLU.
    """
    stages: list[list[nn.Module]] = [[] for _ in range(3)]
    channels, previous = image_shape[0], 0
    for index in range(depth):
        stage = 3 * index // depth
        stages[stage].append(ConvBlock(channels, width * 2**stage, 2 ** (stage - previous), norm == "batch"))
        channels, previous = width * 2**stage, stage
    return [stage for stage in stages if stage]
