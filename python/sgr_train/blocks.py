"""The networks as lists of blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """3x3 convolution, BatchNorm or none, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm: bool = True) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=not norm)
        if norm:
            super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
        else:
            super().__init__(_keep_variance(conv), nn.ReLU())
        self.out_channels = out_channels


class LinearBlock(nn.Sequential):
    """Linear, ReLU; the first one flattens the image."""

    def __init__(self, in_features: int, out_features: int, first: bool) -> None:
        flatten = [nn.Flatten()] if first else []
        super().__init__(*flatten, _keep_variance(nn.Linear(in_features, out_features)), nn.ReLU())
        self.out_channels = out_features


def _keep_variance(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """He et al.'s initialisation: without normalisation, activations must neither grow nor vanish with depth."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """He et al.'s basic block with an option-A shortcut: subsample, fill the new channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, stride)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return self.relu(self.norm(self.conv(self.first(x))) + shortcut)


def mlp(in_features: int, depth: int, width: int) -> list[nn.Module]:
    """``depth`` linear blocks of ``width`` units."""
    return [LinearBlock(width if index else in_features, width, first=index == 0) for index in range(depth)]


def plainnet(in_channels: int, depth: int, width: int, norm: bool = True) -> list[nn.Module]:
    """``depth`` conv blocks in three stages of width, 2 width, 4 width channels; a new stage begins with stride 2."""
    blocks, channels = [], in_channels
    for index in range(depth):
        stage, previous = 3 * index // depth, 3 * max(index - 1, 0) // depth
        blocks.append(ConvBlock(channels, width * 2**stage, stride=2 ** (stage - previous), norm=norm))
        channels = width * 2**stage
    return blocks


def resnet32(in_channels: int) -> list[nn.Module]:
    """CIFAR ResNet-32 (He et al. 2016): a stem and three stages of five residual blocks, 16, 32, 64 channels."""
    blocks: list[nn.Module] = [ConvBlock(in_channels, 16)]
    for channels, out_channels in ((16, 16), (16, 32), (32, 64)):
        blocks.append(ResidualBlock(channels, out_channels, stride=out_channels // channels))
        blocks.extend(ResidualBlock(out_channels, out_channels) for _ in range(4))
    return blocks
