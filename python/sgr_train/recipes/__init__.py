"""Recipes: rows of the paper as settings of a run, found by ``sgr-train recipe NAME``.

An entry is a function without arguments that gives a :class:`Recipe`. A file holds those of one table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..registry import Registry

REGISTRY = Registry("recipe", __name__)
register, names = REGISTRY.register, REGISTRY.names


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run that is known by name.

    Attributes:
        paper: what the paper has for it: test accuracy in %, table, row, column.
        settings: by the name of a flag of ``sgr-train run``, with underscores.
        choices: what the paper leaves open, and what is taken here, a sentence each.
    """

    paper: str
    settings: dict[str, Any]
    choices: tuple[str, ...] = ()


def find(name: str) -> Recipe:
    """Raises UsageError where there is none."""
    if name not in names():
        raise UsageError(f"there is no recipe {name!r}; sgr-train recipe --list shows all")
    return REGISTRY.find(name)()


def __getattr__(name: str) -> Callable[[], Recipe]:
    return REGISTRY.attribute(name)


REGISTRY.load()
