"""torchvision's Swin transformers (Liu et al. 2021): patch embedding, then one entry a block or patch merging."""

from __future__ import annotations

from torch import nn

from . import register

IMAGENET = {"head": "tokens", "image_shape": (3, 224, 224), "tokens": True}


def _stages(name: str) -> list[list[nn.Module]]:
    from torchvision import models

    embedding, *parts = models.get_model(name, weights=None).features
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
