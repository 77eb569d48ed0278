"""Cosine decay."""

from __future__ import annotations

import math

from ..options import NotNegative, Share
from . import register, warm


@register("cosine")
def cosine(
    epoch: float, epochs: int, *, warmup: NotNegative = 0.0, final: Share = 0.0, per_step: bool = False
) -> float:
    """Falls along half a cosine.

    Args:
        warmup: epochs before it, in which the learning rate rises in a line, at every step.
        final: share of the learning rate that is left at the end.
        per_step: fall at every step, in the place of every epoch.
    """
    if epoch < warmup:
        return warm(epoch, warmup)
    passed = max((epoch if per_step else math.floor(epoch)) - warmup, 0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * passed / (epochs - warmup)))
