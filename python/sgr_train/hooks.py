"""Who is told of a run as it goes on: the file of metrics, the loggers that --log names, and the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from . import checkpoint, loggers
from .config import RunConfig, Settings
from .errors import note, one_line
from .loader import Data
from .progress import Progress
from .state import Training


class Metrics:
    """metrics.jsonl: a row an epoch."""

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        self._run, self._folder = run, config.out
        if run.history:
            checkpoint.restore_metrics(config.out, run.history)

    def epoch(self, row: dict[str, Any]) -> None:
        checkpoint.write_metrics(self._folder, self._run.history)


class Hooks:
    """Several objects that are called in turn, each for what it has; :mod:`sgr_train.loggers` says when and with what.

    Args:
        hooks: by their names; what one of them raises ends the run.
        optional: the same, but for the end of the run: a note names who failed, and it is not called any more.
    """

    def __init__(self, hooks: dict[str, Any] | None = None, optional: dict[str, Any] | None = None) -> None:
        self._optional = set(optional or ())
        self._given = {**(optional or {}), **(hooks or {})}
        self._begun: dict[str, Any] = {}

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        for name, hook in self._given.items():
            if self._succeeds(name, hook, "begin", run, config, data):
                self._begun[name] = hook

    def batch(self, images: int, loss: Tensor) -> None:
        self._call("batch", images, loss)

    def epoch(self, row: dict[str, Any]) -> None:
        self._call("epoch", row)

    def end(self, summary: dict[str, Any] | None) -> None:
        """Nobody is called after it, and nobody whom :meth:`begin` was not called for."""
        self._call("end", summary)
        self._begun.clear()

    def _call(self, what: str, *args: Any) -> None:
        for name, hook in list(self._begun.items()):
            if not self._succeeds(name, hook, what, *args):
                del self._begun[name]

    def _succeeds(self, name: str, hook: Any, what: str, *args: Any) -> bool:
        try:
            getattr(hook, what, _nothing)(*args)
        except Exception as error:
            if name not in self._optional:
                raise
            note(f"--log {name} failed ({what}: {type(error).__name__}: {one_line(error)}); the run goes on without it")
            return False
        return True


@contextlib.contextmanager
def of_run(config: RunConfig, label: str, verbose: bool) -> Iterator[Hooks]:
    """Those of a run. They hear of its end, however it ends.

    Raises:
        UsageError: a logger refuses the run, or is not installed.
    """
    hooks = Hooks({"metrics": Metrics(), "progress": Progress(label, verbose)}, make_loggers(config))
    try:
        yield hooks
    finally:
        hooks.end(None)


def make_loggers(config: Settings) -> dict[str, Any]:
    """By their names. Raises UsageError, as :func:`of_run`."""
    return {name: loggers.REGISTRY.make(name, **config.options["log"][name]) for name in config.log}


def _nothing(*_: Any) -> None:
    """In the place of a call that a hook has not."""
