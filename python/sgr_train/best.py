"""The checkpoint of the epoch with the best validation accuracy, which is kept beside the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import BEST, CHECKPOINT, CHECKPOINTS, load_latest, load_state
from .errors import Damaged, UsageError, note
from .files import exists, put_aside, read, write


def load_best(folder: Path, run: str) -> dict[str, Any]:
    """The state after the epoch of the best validation accuracy.

    Raises:
        UsageError: it is not there any more, or no epoch was validated.
    """
    last = load_latest(folder, run) if any(exists(folder / name) for name in CHECKPOINTS) else None
    epoch = 0 if last is None else best_epoch(last["history"])
    if epoch is None:
        raise UsageError(f"--checkpoint best: no epoch of {folder} has a validation accuracy; take --checkpoint last")
    if last is not None and is_best(last):
        return last
    try:
        state = load_state(folder / BEST, run)
        if len(state["history"]) < epoch:
            raise Damaged(f"{folder / BEST} is of epoch {len(state['history'])}, and epoch {epoch} is better")
    except Damaged as error:
        raise UsageError(f"--checkpoint best: {error}; take --checkpoint last") from error
    return state


def restore_best(folder: Path, run: str, last: dict[str, Any]) -> None:
    """Keep the last state as the best one if an interrupt came before. What cannot be put right, a note says."""
    epoch, path = best_epoch(last["history"]), folder / BEST
    if epoch is None:
        return
    try:
        try:
            if len(load_state(path, run)["history"]) >= epoch:
                return
            reason, aside = f"{path} is not of epoch {epoch}", None
        except Damaged as error:
            reason, aside = str(error), put_aside(path)
        if is_best(last):
            write(path, read(folder / CHECKPOINT))
            remedy = f"it is made anew from {CHECKPOINT}"
        else:
            remedy = f"the weights of epoch {epoch}, the best so far, are lost"
        if aside or not is_best(last):
            note("; ".join([reason, *([f"kept as {aside}"] if aside else []), remedy]))
    except UsageError as error:  # it is not worth a run
        note(str(error))


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """That of the best validation accuracy of the last head, the first of equals; None if none was validated."""
    accuracies = {row["epoch"]: row["val_accuracy"][-1] for row in history if row.get("val_accuracy")}
    return max(accuracies, key=accuracies.__getitem__, default=None)


def is_best(state: dict[str, Any]) -> bool:
    """Whether its last epoch is over and the best."""
    return state["epoch"] is None and best_epoch(state["history"]) == len(state["history"])
