"""torchvision's ResNets (He et al. 2016): a stem, then one entry a residual block."""

from __future__ import annotations

from torch import nn

from . import register

SHAPE = (3, 224, 224)
IMAGENET = {"head": "infopro_imagenet", "image_shape": SHAPE}


def _stages(name: str, in_channels: int) -> list[list[nn.Module]]:
    from torchvision import models

    net = models.get_model(name, weights=None)
    conv = net.conv1
    if in_channels != conv.in_channels:
        conv = nn.Conv2d(in_channels, conv.out_channels, 7, stride=2, padding=3, bias=False)
    stem = nn.Sequential(conv, net.bn1, net.relu, net.maxpool)
    return [[stem, *net.layer1], [*net.layer2], [*net.layer3], [*net.layer4]]


@register("resnet18", **IMAGENET)
def resnet18(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ImageNet ResNet of 8 basic blocks in four stages."""
    return _stages("resnet18", image_shape[0])


@register("resnet34", **IMAGENET)
def resnet34(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ImageNet ResNet of 16 basic blocks in four stages."""
    return _stages("resnet34", image_shape[0])


# Cuts: where a step of the directional engine needs least memory, found by search.
@register("resnet50", cuts={2: (5,), 3: (3, 6)}, **IMAGENET)
def resnet50(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ImageNet ResNet of 16 bottleneck blocks in four stages."""
    return _stages("resnet50", image_shape[0])


@register("resnet101", cuts={2: (8,), 3: (4, 13)}, **IMAGENET)
def resnet101(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ImageNet ResNet of 33 bottleneck blocks in four stages."""
    return _stages("resnet101", image_shape[0])


@register("resnet152", **IMAGENET)
def resnet152(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """ImageNet ResNet of 50 bottleneck blocks in four stages."""
    return _stages("resnet152", image_shape[0])
