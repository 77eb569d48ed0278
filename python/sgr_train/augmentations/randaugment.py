"""RandAugment (Cubuk et al. 2020)."""

from __future__ import annotations

from typing import Annotated

import torch

from ..options import Count, Range
from . import drawing_from, register


@register("randaugment")
def randaugment(x, y, data, generator, *, operations: Count = 2, magnitude: Annotated[int, Range(0, 30)] = 9):
    """Random changes of colour and shape, others for every image (RandAugment).

    Args:
        operations: how many, one after the other.
        magnitude: how strong, 0 to 30.
    """
    from torchvision.transforms import v2

    change = v2.RandAugment(operations, magnitude)
    with drawing_from(generator):
        return data.normalise(torch.stack([change(image) for image in data.pixels(x)])), y
