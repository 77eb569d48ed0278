"""Where else a run is told of, by --log: classes that are called as it goes on. Options are those of the constructor.

A logger may have any of these:
    begin(run, config, data): before the first step: :class:`~sgr_train.state.Training`, ``RunConfig`` and
        :class:`~sgr_train.loader.Data`. ``run.history`` are the rows of the epochs before, of a run that is resumed;
        the last of them may not have been told of.
    batch(images, loss): after a step on so many images. ``loss`` is the mean of the last head in this epoch, 0-d, on
        the device; reading it awaits a GPU.
    epoch(row): after an epoch that is kept: a line of metrics.jsonl, in which "val_accuracy" is None where nothing was
        validated.
    end(summary): last of all. ``summary`` is that of summary.json, {} of a run that nobody tests, and None of one that
        was interrupted or failed.

A constructor that raises UsageError refuses the run before it begins. What is raised later is told in one line, and the
run goes on without this logger: a log is not worth a run. Loggers leave the run as it is: network, optimizers and
torch's random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..registry import Registry

REGISTRY = Registry("log", __name__)
register, names = REGISTRY.register, REGISTRY.names

FIRST_OF = {"sgr": 2, "test_accuracy_per_class": 0}  # the number of the first of several values, if not 1


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row or a summary; of several, as of modules, "loss/1", "loss/2" and so on."""
    found = {}
    for name, value in values.items():
        if isinstance(value, list):
            first = FIRST_OF.get(name, 1)
            found |= scalars({f"{name}/{number}": each for number, each in enumerate(value, first)})
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def __getattr__(name: str) -> Callable:
    return REGISTRY.attribute(name)


REGISTRY.load()
