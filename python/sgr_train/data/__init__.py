"""Data sets: functions ``(argument, *, options) -> Splits``; ``--data NAME:ARGUMENT`` gives them the argument.

Validation images that a data set has not are taken from its training images, the same for every seed.
"""

from __future__ import annotations

from typing import NamedTuple

from ..registry import Registry
from ..splits import Files, Images

REGISTRY = Registry("data", __name__)
register, names = REGISTRY.register, REGISTRY.names


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
