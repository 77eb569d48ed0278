"""The networks of Table 5 as lists of blocks, with local heads: what a benchmark cuts into modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import EncoderBlock

import sgr_kernels as sk

CLASSES = 1000


class Network(NamedTuple):
    """``cuts``: indices of the blocks that begin the second and the third module."""

    blocks: Callable[[], list[nn.Module]]
    head: Callable[[int], nn.Module]  # from the width of the features
    cuts: tuple[int, int]


class LocalModule(NamedTuple):
    body: nn.Module
    head: nn.Module


def modules(network: Network, cuts: Sequence[int], sample: Tensor) -> list[LocalModule]:
    """Cut into ``len(cuts) + 1`` modules, each with a head; ``sample`` is an input (B, 3, H, W)."""
    blocks = network.blocks()
    edges = [0, *cuts, len(blocks)]
    bodies = [nn.Sequential(*blocks[i:j]) for i, j in itertools.pairwise(edges)]
    heads, x = [], sample
    for body in bodies:
        x = output_of(body, x)
        heads.append(make_head(network, x))
    return [LocalModule(*pair) for pair in zip(bodies, heads, strict=True)]


def make_head(network: Network, features: Tensor) -> nn.Module:
    return network.head(features.shape[1 if network.head is conv_head else -1])


@torch.no_grad()
def output_of(body: nn.Module, x: Tensor) -> Tensor:
    training = body.training
    output = body.eval()(x)
    body.train(training)
    return output


def conv_head(channels: int) -> nn.Module:
    """The local classifier of InfoPro (Wang et al. 2021) for ImageNet, which the paper adopts."""
    sizes = [(channels, 128, 1, 1), (128, 256, 3, 2), (256, 512, 3, 2), (512, 2048, 1, 1)]
    layers = [layer for size in sizes for layer in _conv_norm_relu(*size)]
    return sk.CrossEntropyHead(nn.Linear(2048, CLASSES), nn.Sequential(*layers))


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class MeanToken(nn.Module):
    """Mean over all but the first and the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


def token_head(width: int) -> nn.Module:
    return sk.CrossEntropyHead(nn.Linear(width, CLASSES), nn.Sequential(nn.LayerNorm(width), MeanToken()))


def resnet(make: Callable[..., models.ResNet]) -> list[nn.Module]:
    """Stem, then one entry a residual block."""
    net = make(weights=None)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return [stem, *net.layer1, *net.layer2, *net.layer3, *net.layer4]


class _Patches(nn.Module):
    """Patch embedding with positions (Dosovitskiy et al. 2021), without a class token."""

    def __init__(self, patch: int, width: int, image_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2) + self.positions


def vit_small(image_size: int = 224) -> list[nn.Module]:
    """ViT-S/16: 12 blocks of width 384 with 6 heads."""
    block = partial(EncoderBlock, 6, 384, 1536, 0.1, 0.0, partial(nn.LayerNorm, eps=1e-6))
    return [_Patches(16, 384, image_size), *(block() for _ in range(12))]


def swin(make: Callable[..., models.SwinTransformer]) -> list[nn.Module]:
    """Patch embedding, then one entry a block or patch merging."""
    blocks: list[nn.Module] = []
    for part in make(weights=None).features:
        merging_or_embedding = (
            not isinstance(part[0], models.swin_transformer.SwinTransformerBlock)
            if isinstance(part, nn.Sequential)
            else True
        )
        blocks.extend([part] if merging_or_embedding else part)
    return blocks


NETWORKS = {
    "resnet50": Network(partial(resnet, models.resnet50), conv_head, (3, 6)),
    "resnet101": Network(partial(resnet, models.resnet101), conv_head, (3, 7)),
    "vit_small": Network(vit_small, token_head, (5, 9)),
    "swin_tiny": Network(partial(swin, models.swin_t), token_head, (3, 7)),
    "swin_small": Network(partial(swin, models.swin_s), token_head, (3, 7)),
}
