"""torchvision's Swin transformers (Liu et al. 2021): patch embedding, then one entry a block or patch merging."""

from __future__ import annotations

from torch import nn

from ..errors import UsageError
from ..options import Count
from . import register

IMAGENET = {"head": "tokens", "image_shape": (3, 224, 224), "tokens": True}


def _stages(name: str) -> list[list[nn.Module]]:
    from torchvision import models

    return _stages_of(models.get_model(name, weights=None).features)


def _stages_of(features: nn.Sequential) -> list[list[nn.Module]]:
    embedding, *parts = features
    stages: list[list[nn.Module]] = [[embedding]]
    for part in parts:
        if isinstance(part, nn.Sequential):
            stages[-1].extend(part)
        else:  # patch merging begins a stage
            stages.append([part])
    return stages


# Cuts: where a step of the directional engine needs least memory, found by search.
@register("swin_t", cuts={3: (3, 7)}, **IMAGENET)
def swin_t(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """Swin-T: 12 blocks in four stages, 96 to 768 channels; RGB images."""
    return _stages("swin_t")


@register("swin_s", cuts={2: (10,), 3: (5, 15)}, **IMAGENET)
def swin_s(image_shape: tuple[int, int, int]) -> list[list[nn.Module]]:
    """Swin-S: 24 blocks in four stages, 96 to 768 channels; RGB images."""
    return _stages("swin_s")


@register("swin_cifar", head="tokens", tokens=True)
def swin_cifar(
    image_shape: tuple[int, int, int],
    *,
    depths: tuple[Count, ...] = (2, 2),
    width: Count = 32,
    heads: Count = 4,
    dropout: float = 0.1,
) -> list[list[nn.Module]]:
    """Swin for small RGB images: patches and windows of 4 x 4.

    Args:
        depths: number of blocks of every stage.
        width: channels of the first stage, a multiple of the heads; both double from stage to stage.
        heads: of every attention of the first stage.
        dropout: rate, in every block, of attention too.

    Raises:
        UsageError: the heads do not divide the width.
    """
    from torchvision.models import SwinTransformer

    if width % heads:
        raise UsageError(f"--width must be a multiple of --heads ({heads}), got {width}")
    all_heads = [heads * 2**stage for stage in range(len(depths))]
    rates = {"dropout": dropout, "attention_dropout": dropout}
    return _stages_of(SwinTransformer([4, 4], width, list(depths), all_heads, window_size=[4, 4], **rates).features)
