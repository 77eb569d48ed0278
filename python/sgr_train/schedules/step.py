"""Decay by steps."""

from __future__ import annotations

from ..options import Count, NotNegative, Share
from . import register, warm


@register("step")
def step(
    epoch: float,
    epochs: int,
    *,
    milestones: tuple[Count, ...] = (30, 60, 90),
    gamma: Share = 0.1,
    warmup: NotNegative = 0.0,
) -> float:
    """Falls by a factor after some epochs.

    Args:
        milestones: epochs after which the learning rate falls.
        gamma: the factor by which it falls.
        warmup: first epochs, in which the learning rate rises in a line, at every step.
    """
    return warm(epoch, warmup) * gamma ** sum(epoch >= milestone for milestone in milestones)
