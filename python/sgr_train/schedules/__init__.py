"""Schedules: functions ``(epoch, epochs, *, options) -> factor`` on the learning rate, asked at every step.

``epoch`` are the passes over the training images that lie behind, with a fraction within one; ``epochs`` are all.
"""

from __future__ import annotations

from collections.abc import Callable

from ..registry import Registry

REGISTRY = Registry("schedule", __name__)
register, names = REGISTRY.register, REGISTRY.names

FIRST = 0.01  # the factor with which a warm-up begins


def warm(epoch: float, warmup: float) -> float:
    """From FIRST up to 1 in ``warmup`` epochs, in a line, at every step; 1 from then on."""
    return 1.0 if epoch >= warmup else FIRST + (1 - FIRST) * epoch / warmup


def __getattr__(name: str) -> Callable:
    return REGISTRY.attribute(name)


REGISTRY.load()
