"""Studies: what is trained to show one thing, found by ``python -m sgr_bench.training run STUDY``.

An entry is a function without arguments that gives a :class:`Study`; a file holds one. A row more is a line more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sgr_train.registry import Registry

REGISTRY = Registry("study", __name__)
register, names = REGISTRY.register, REGISTRY.names


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        name: in tables, files and on the command line.
        recipe: of ``sgr-train recipe``, which has the paper's number and settings.
        changes: of settings of the recipe, beside those of the study.
        against: the row that this one is compared with, seed by seed; None: with none.
        paper: what the paper has for it; None: what the recipe says, of the same method.
        plugin: file beside this folder that brings its method; None: it needs none.
    """

    name: str
    recipe: str
    changes: dict[str, Any] = field(default_factory=dict)
    against: str | None = None
    paper: str | None = None
    plugin: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows that belong on one table.

    Attributes:
        title: of its section on the page.
        text: under it, a few sentences.
        changes: of settings of the recipes, in all rows.
        rows: in the order of the table.
        seeds: that every row is run with.
        drawn: names of rows, for its pictures.
        pictures: names of those that the page has of it.
        quantity: "test_accuracy", or "val_accuracy" of a search, which keeps no test accuracy.
        shown: whether the page says that it is missing.
    """

    title: str
    text: str
    changes: dict[str, Any]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    drawn: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    quantity: str = "test_accuracy"
    shown: bool = True

    def only(self, names: tuple[str, ...], **other: Any) -> Study:
        """Some of its rows, with attributes that are others."""
        return replace(self, rows=tuple(row for row in self.rows if row.name in names), **other)


def find(name: str) -> Study:
    """Raises UsageError where there is none."""
    return REGISTRY.find(name)()


def __getattr__(name: str) -> Callable[[], Study]:
    return REGISTRY.attribute(name)


REGISTRY.load()
