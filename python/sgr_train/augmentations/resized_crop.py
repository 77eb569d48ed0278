"""Random crops of random size."""

from __future__ import annotations

import torch

from ..options import Share
from . import drawing_from, register


@register("resized_crop")
def resized_crop(x, y, data, generator, *, least_area: Share = 0.08):
    """A random part of every image in the size of the whole, as for ImageNet.

    Args:
        least_area: share of the image that is left at least.
    """
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(x.shape[2:], (least_area, 1.0), antialias=True)
    with drawing_from(generator):
        return torch.stack([crop(image) for image in x]), y
