"""Small two-module networks for CIFAR-10 of four kinds: residual blocks, VGG, ViT and Swin blocks."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

import sgr_kernels as sk

from .networks import LocalModule, MeanToken


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _conv_module(body: nn.Sequential, width: int) -> LocalModule:
    return LocalModule(body, sk.CrossEntropyHead(nn.Linear(width, 10), nn.Sequential(*_conv(width, width))))


def residual() -> list[LocalModule]:
    first = nn.Sequential(*_conv(3, 16), _Residual(16, 16, 1))
    return [_conv_module(first, 16), _conv_module(nn.Sequential(_Residual(16, 32, 2), _Residual(32, 32, 1)), 32)]


def vgg() -> list[LocalModule]:
    def block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(*_conv(inputs, outputs), *_conv(outputs, outputs), nn.MaxPool2d(2))

    return [_conv_module(block(3, 16), 16), _conv_module(nn.Sequential(block(16, 32), block(32, 32)), 32)]


class _Patches(nn.Module):
    """4x4 patches, (B, 8, 8, width), flattened to (B, 64, width) for a ViT."""

    def __init__(self, width: int, flatten: bool) -> None:
        super().__init__()
        self.proj, self.flatten = nn.Conv2d(3, width, 4, 4), flatten

    def forward(self, x: Tensor) -> Tensor:
        patches = self.proj(x).permute(0, 2, 3, 1)
        return patches.flatten(1, 2) if self.flatten else patches


def _token_module(width: int, *blocks: nn.Module) -> LocalModule:
    return LocalModule(nn.Sequential(*blocks), sk.CrossEntropyHead(nn.Linear(width, 10), MeanToken()))


def vit() -> list[LocalModule]:
    block = partial(EncoderBlock, 4, 64, 128, 0.1, 0.1, partial(nn.LayerNorm, eps=1e-6))
    return [_token_module(64, _Patches(64, flatten=True), block()), _token_module(64, block(), block())]


def swin() -> list[LocalModule]:
    rates = {"dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth_prob": 0.2}
    block = partial(SwinTransformerBlock, num_heads=4, window_size=[4, 4], **rates)
    return [
        _token_module(32, _Patches(32, flatten=False), block(32, shift_size=[0, 0])),
        _token_module(64, block(32, shift_size=[2, 2]), PatchMerging(32), block(64, shift_size=[0, 0])),
    ]


KINDS = {"residual": residual, "vgg": vgg, "vit": vit, "swin": swin}
