"""Data sets: functions ``(argument, *, options) -> Splits``; ``--data NAME:ARGUMENT`` gives them the argument.

Validation images that a data set has not are taken from its training images, the same for every seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..registry import Registry
from .splits import Files, Images

REGISTRY = Registry("data", __name__)
names = REGISTRY.names


class Facts(NamedTuple):
    """What is known of a data set without its images; ``image_shape`` is (C, H, W)."""

    num_classes: int
    image_shape: tuple[int, int, int]


_facts: dict[str, Facts] = {}


def register(name: str, known: Facts | None = None) -> Callable[[Callable[..., Splits]], Callable[..., Splits]]:
    """Decorator for a function that gives :class:`Splits`; with what is ``known``, a dry run needs no images."""
    if known is not None:
        _facts[name] = known
    return REGISTRY.register(name)


def facts(name: str) -> Facts | None:
    return _facts.get(name)


class Splits(NamedTuple):
    """A data set.

    Attributes:
        val: None: to be taken from ``train``.
        classes: their names, in the order of the labels. None: the labels, up to the largest one there is.
    """

    train: Images | Files
    val: Images | Files | None
    test: Images | Files
    classes: tuple[str, ...] | None = None


def __getattr__(name: str):
    return REGISTRY.attribute(name)


REGISTRY.load()
