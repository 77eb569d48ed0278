"""Random mirror images."""

from __future__ import annotations

import torch

from . import register


@register("flip")
def flip(x, y, data, generator):
    """Half of the images mirrored left to right."""
    chosen = torch.rand(len(x), 1, generator=generator) < 0.5
    return torch.where(chosen.to(x.device)[..., None, None], x.flip(3), x), y
