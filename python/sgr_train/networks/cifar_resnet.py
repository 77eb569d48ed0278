"""The ResNets for CIFAR of He et al. (2016), and the same without shortcuts (the PlainNet of Table 3)."""

from __future__ import annotations

from torch import nn

from . import register
from .layers import ConvBlock, ResidualBlock

PAPER_CUTS = {2: (11,)}  # of ResNet-32: the last stage alone (Table 6); K=3 cuts between stages


def _stages(in_channels: int, depth: int, shortcut: bool = True) -> list[list[nn.Module]]:
    """``depth`` layers: a stem, three stages of blocks of two layers with 16, 32, 64 channels, and the classifier."""
    blocks = (depth - 2) // 6
    stages: list[list[nn.Module]] = []
    for channels, out_channels in ((16, 16), (16, 32), (32, 64)):
        first = ResidualBlock(channels, out_channels, out_channels // channels, shortcut)
        others = (ResidualBlock(out_channels, out_channels, shortcut=shortcut) for _ in range(blocks - 1))
        stages.append([first, *others])
    stages[0].insert(0, ConvBlock(in_channels, 16))
    return stages


@register("resnet14")
def resnet14(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """CIFAR ResNet with 6 residual blocks in three stages of 16, 32 and 64 channels."""
    return _stages(image_shape[0], 14)


@register("resnet32", cuts=PAPER_CUTS)
def resnet32(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """CIFAR ResNet with 15 residual blocks in three stages of 16, 32 and 64 channels."""
    return _stages(image_shape[0], 32)


@register("resnet110")
def resnet110(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """CIFAR ResNet with 54 residual blocks in three stages of 16, 32 and 64 channels."""
    return _stages(image_shape[0], 110)


@register("plainnet32", cuts=PAPER_CUTS)
def plainnet32(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ResNet-32 without its identity connections (Table 3)."""
    return _stages(image_shape[0], 32, shortcut=False)
