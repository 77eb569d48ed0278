"""Small modules of the kinds the directional engine is for."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

import sgr_kernels as sk


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + x)


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Hooked(nn.Module):
    """A smooth function, the gradient of which goes through ``hook``."""

    def __init__(self, hook) -> None:
        super().__init__()
        self.hook = hook

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        if x.requires_grad:
            x.register_hook(self.hook)
        return x


class Pooled(nn.Module):
    """Mean over all but the first and the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


def _vgg(channels: int, out: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True), nn.MaxPool2d(2))


def _vit(dropout: float) -> nn.Sequential:
    block = partial(EncoderBlock, 2, 16, 32, dropout, dropout, partial(nn.LayerNorm, eps=1e-6))
    return nn.Sequential(block(), block())


def _swin() -> nn.Sequential:
    options = {"dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth_prob": 0.3}
    block = partial(SwinTransformerBlock, num_heads=2, window_size=[4, 4], **options)
    return nn.Sequential(block(8, shift_size=[2, 2]), PatchMerging(8), block(16, shift_size=[0, 0]))


# Body, width of its output, shape of a sample
MODELS = {
    "resnet": (lambda: nn.Sequential(Residual(8), Residual(8)), 8, (8, 8, 8)),
    "vgg": (lambda: nn.Sequential(_vgg(8, 16), _vgg(16, 16)), 16, (8, 8, 8)),
    "vit": (lambda: _vit(0.1), 16, (9, 16)),
    "vit without dropout": (lambda: _vit(0.0), 16, (9, 16)),
    "swin": (_swin, 16, (8, 8, 8)),
}


def module(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor]:
    """body, head, x, y, delta_pre."""
    make, width, shape = MODELS[name]
    images = name in ("resnet", "vgg")
    features = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    body, head = make(), sk.CrossEntropyHead(nn.Linear(width, 4), features if images else Pooled())
    x, delta_pre = torch.randn(2, 12, *shape).to(dtype).unbind(0)
    x = F.relu(x) if images else x
    if dtype != torch.float32:  # fake modules cannot be converted
        body, head = body.to(dtype), head.to(dtype)
    return body, head, x, torch.randint(4, (12,)), delta_pre
