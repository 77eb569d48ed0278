"""Augmentations of training batches: functions ``(x, y, data, generator, *, options) -> (x, y)``, one after another.

``x`` (B, C, H, W) are normalised images of ``data``, on its device, ``y`` labels (B,), or class probabilities (B, K)
once mixup was there. All that is random is drawn from ``generator``, which is on the CPU: a run that is resumed goes on
with the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from ..registry import Registry

REGISTRY = Registry("augment", __name__)
register, names = REGISTRY.register, REGISTRY.names

OF_COLOUR = ("crop", "flip")  # of colour images, where nothing else is asked for


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """torchvision draws from torch's global generator; what it draws here comes from this one instead."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def __getattr__(name: str) -> Callable:
    return REGISTRY.attribute(name)


REGISTRY.load()
