"""A run that goes on for more epochs than it was begun with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from . import checkpoint, methods
from .build import own_options
from .config import RunConfig
from .errors import UsageError
from .folder import locked
from .paths import expand


def extend(folder: Path, epochs: int) -> RunConfig:
    """Write the new number of epochs into a run folder; what is given resumes the run.

    The learning rate goes on where the schedule of the new number of epochs has it.

    Raises:
        UsageError: no run, a damaged one, not more epochs, or a method that trains in phases, whose first are over.
    """
    folder = expand(folder)
    with locked(folder):
        config = dataclasses.replace(checkpoint.read_config(folder, "run"), out=folder)
        if epochs <= config.epochs:
            raise UsageError(f"--epochs must be more than the {config.epochs} of the run in {folder}, got {epochs}")
        if hasattr(methods.REGISTRY.make(config.method, **own_options(config)), "phases"):
            raise UsageError(f"{config.method} trains in phases, of which the first have had their epochs; start anew")
        checkpoint.change(config, dataclasses.replace(config, epochs=epochs))
    return RunConfig(resume=folder)
