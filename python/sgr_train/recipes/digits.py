"""The handwritten digits: what every method takes to learn them in three epochs, a few seconds."""

from __future__ import annotations

from ..methods import names
from . import Recipe, register
from .table4 import PEPITA_CONV

NETWORK = {"model": "plainnet", "depth": 3, "lr": 0.05}
OTHERS = {  # where a method needs something else
    "dfa": {**NETWORK, "head": "linear"},
    "drtp": {**NETWORK, "head": "linear"},
    "dni": {**NETWORK, "lr": 0.02},
    "pepita": {**PEPITA_CONV, "lr": 0.1},
}
CHOICE = "Everything is chosen here: that a method of the zoo learns is seen, and not how well."


def _of(method: str) -> None:
    @register(f"digits-{method}")
    def recipe() -> Recipe:
        settings = {"data": "digits", "method": method, "epochs": 3, **OTHERS.get(method, NETWORK)}
        return Recipe(paper=f"no number (digits, {method})", settings=settings, choices=(CHOICE,))


for _method in names():
    _of(_method)
