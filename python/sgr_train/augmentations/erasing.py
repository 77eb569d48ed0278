"""Random erasing (Zhong et al. 2020)."""

from __future__ import annotations

import torch

from ..options import Share
from . import drawing_from, register


@register("erasing")
def erasing(x, y, data, generator, *, erasing_probability: Share = 0.25):
    """A rectangle of some images in the mean colour (random erasing).

    Args:
        erasing_probability: share of the images.
    """
    from torchvision.transforms import v2

    erase = v2.RandomErasing(erasing_probability)
    with drawing_from(generator):
        return torch.stack([erase(image) for image in x]), y
