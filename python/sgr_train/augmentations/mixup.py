"""Mixup (Zhang et al. 2018)."""

from __future__ import annotations

from ..options import Positive
from . import drawing_from, register


@register("mixup")
def mixup(x, y, data, generator, *, mixup_alpha: Positive = 0.2):
    """Every image mixed with another one, and their labels in the same shares, one share a batch (mixup).

    Args:
        mixup_alpha: both parameters of the Beta distribution of the share.
    """
    from torchvision.transforms import v2

    with drawing_from(generator):
        return v2.MixUp(alpha=mixup_alpha, num_classes=data.num_classes)(x, y)
