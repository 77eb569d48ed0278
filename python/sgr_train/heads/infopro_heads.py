"""The local classifiers of InfoPro (Wang et al. 2021)."""

from __future__ import annotations

from torch import nn

import sgr_kernels as sk

from ..networks.network import Features
from . import register, require

CIFAR_CHANNELS = {16: (32, 2), 32: (64, 2), 64: (64, 1)}  # output channels and stride, by input channels


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


@register("infopro_cifar")
def infopro_cifar(features: Features, num_classes: int) -> nn.Module:
    """One convolution and two linear layers ("1c2f"); for maps."""
    require("infopro_cifar", features, "maps")
    outputs, stride = CIFAR_CHANNELS.get(features.channels, (features.channels, 1))
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 128), nn.ReLU(inplace=True)]
    layers = nn.Sequential(*_conv(features.channels, outputs, 3, stride), *pool)
    return sk.CrossEntropyHead(nn.Linear(128, num_classes), layers)


@register("infopro_imagenet")
def infopro_imagenet(features: Features, num_classes: int) -> nn.Module:
    """Four convolutions and a linear layer, which the paper takes for ImageNet; for maps."""
    require("infopro_imagenet", features, "maps")
    sizes = [(features.channels, 128, 1, 1), (128, 256, 3, 2), (256, 512, 3, 2), (512, 2048, 1, 1)]
    layers = nn.Sequential(*(layer for size in sizes for layer in _conv(*size)))
    return sk.CrossEntropyHead(nn.Linear(2048, num_classes), layers)
