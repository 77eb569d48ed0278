"""A run that goes on for more epochs than it was begun with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from . import checkpoint, methods
from .config import RunConfig
from .errors import UsageError
from .files import exists
from .folder import locked
from .paths import expand
from .stopping import has_stopped


def extend(folder: Path, epochs: int) -> RunConfig:
    """Write the new number of epochs into a run folder; what is given resumes the run.

    The learning rate goes on where the schedule of the new number of epochs has it. Patience is counted anew.

    Raises:
        UsageError: no run, a damaged one, one without checkpoints, not more epochs, one of the runs of a comparison,
            which have as many as each other, or a method that trains in phases, whose first are over.
    """
    folder = expand(folder)
    _refuse_part_of_others(folder)
    with locked(folder):
        config = dataclasses.replace(checkpoint.read_config(folder, "run"), out=folder)
        state = checkpoint.load_latest(folder, checkpoint.id_of(config))
        history = [] if state is None else state["history"]
        before = len(history) if has_stopped(history, config) else config.epochs
        if epochs <= before:
            raise UsageError(f"--epochs must be more than the {before} of the run in {folder}, got {epochs}")
        if methods.in_phases(config.method):
            raise UsageError(f"{config.method} trains in phases, of which the first have had their epochs; start anew")
        checkpoint.change(config, dataclasses.replace(config, epochs=epochs, patience_from=len(history)))
    return RunConfig(resume=folder)


def _refuse_part_of_others(folder: Path) -> None:
    above = folder.absolute().parent
    if exists(above / checkpoint.CONFIG):
        raise UsageError(
            f"{folder} is one of the runs of {above}, which have as many epochs as each other; copy it out of there"
        )
