"""Vision transformers (Dosovitskiy et al. 2021) without a class token: their heads average over all tokens."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..options import Count
from . import register

IMAGENET = {"head": "tokens", "image_shape": (3, 224, 224), "tokens": True}


class Patches(nn.Module):
    """Embeds patches of an image, (B, C, H, W) -> (B, patches, width), and adds a position."""

    def __init__(self, image_shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, _ = image_shape
        if any(side % patch for side in image_shape[1:]):
            needed = f"multiples of {patch}, the patch of this --model"
            raise UsageError(f"sides of images must be {needed}, got {image_shape[1:]}")
        self.proj = nn.Conv2d(channels, width, patch, patch)
        count = (height // patch) * (image_shape[2] // patch)
        self.positions = nn.Parameter(0.02 * torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2) + self.positions


def _blocks(
    image_shape: tuple[int, int, int], width: int, heads: int, dropout: float, *, patch: int = 16, depth: int = 12
) -> list[nn.Module]:
    from torchvision.models.vision_transformer import EncoderBlock

    block = partial(EncoderBlock, heads, width, 4 * width, dropout, 0.0, partial(nn.LayerNorm, eps=1e-6))
    return [Patches(image_shape, patch, width), *(block() for _ in range(depth))]


# Cuts: where a step of the directional engine needs least memory, found by search.
@register("vit_s_16", cuts={2: (7,), 3: (5, 9)}, **IMAGENET)
def vit_s_16(image_shape: tuple[int, int, int], *, dropout: float = 0.1) -> list[nn.Module]:
    """ViT-S/16: patches of 16 x 16 pixels, 12 encoder blocks of width 384 with 6 heads.

    Args:
        dropout: rate, in every encoder block.
    """
    return _blocks(image_shape, 384, 6, dropout)


@register("vit_b_16", **IMAGENET)
def vit_b_16(image_shape: tuple[int, int, int], *, dropout: float = 0.1) -> list[nn.Module]:
    """ViT-B/16: patches of 16 x 16 pixels, 12 encoder blocks of width 768 with 12 heads.

    Args:
        dropout: rate, in every encoder block.
    """
    return _blocks(image_shape, 768, 12, dropout)


@register("vit_cifar", head="tokens", tokens=True)
def vit_cifar(
    image_shape: tuple[int, int, int], *, depth: Count = 4, width: Count = 64, heads: Count = 4, dropout: float = 0.1
) -> list[nn.Module]:
    """ViT for small images: patches of 4 x 4 pixels.

    Args:
        depth: number of encoder blocks.
        width: of a token; a multiple of the heads.
        heads: of every attention.
        dropout: rate, in every encoder block.

    Raises:
        UsageError: the heads do not divide the width.
    """
    if width % heads:
        raise UsageError(f"--width must be a multiple of --heads ({heads}), got {width}")
    return _blocks(image_shape, width, heads, dropout, patch=4, depth=depth)
