"""A data set: images with stripes across or along."""

from __future__ import annotations

import torch
from sgr_train.data import Images, Splits, register


@register("stripes")
def stripes(argument, *, side: int = 16) -> Splits:
    """Gray images of two classes, 512 to train on and 256 to test.

    Args:
        side: length of a side in pixels.
    """
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        labels = torch.randint(2, (count,), generator=generator)
        stripes = torch.randint(256, (count, 1, 1, side), generator=generator).expand(-1, 1, side, side)
        noise = torch.randint(64, (count, 1, side, side), generator=generator)
        pixels = torch.where(labels.view(-1, 1, 1, 1) == 0, stripes, stripes.mT) * 3 // 4 + noise
        return Images(pixels.to(torch.uint8), labels)

    return Splits(images(512), None, images(256), classes=("across", "along"))
