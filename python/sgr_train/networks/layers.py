"""Blocks that several networks are made of."""

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
            super().__init__(keep_variance(conv), nn.ReLU())


class ResidualBlock(nn.Module):
    """He et al.'s basic block with an option-A shortcut (subsample, fill the new channels with zeros) or none."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, stride)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.first(x)))
        if self.shortcut:
            y = y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return self.relu(y)


def keep_variance(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """He et al.'s initialisation: without normalisation, activations must neither grow nor vanish with depth."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
