"""Random crops of padded images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..options import Count
from . import register


@register("crop")
def crop(x, y, data, generator, *, padding: Count = 4):
    """Every image shifted by some pixels, what is new filled with the mean colour.

    Args:
        padding: pixels a training image may move in each direction.
    """
    count, channels, height, width = x.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(x.device)
    rows, columns = (first + torch.arange(size, device=x.device) for first, size in ((top, height), (left, width)))
    image, channel = torch.arange(count, device=x.device), torch.arange(channels, device=x.device)
    padded = F.pad(x, [padding] * 4)
    x = padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    return x, y
