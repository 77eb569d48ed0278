"""STUDY.json: a row a run, small enough to be kept with the sources, and all that the page shows."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgr_train import checkpoint, derived
from sgr_train.environment import COMMAND
from sgr_train.errors import UsageError
from sgr_train.files import read_json
from sgr_train.loggers.input_change import FILE
from sgr_train.report import mean

from .runs import Run

DIGITS = 6  # that are kept of a number
SUMMARY = ("method", "modules", "parameters", "epochs", "images", "val_accuracy", "train_accuracy", "sgr")


IDENTITY = ("row", "seed", "recipe", "changes", "command")
FOUND = (*SUMMARY, "seconds", "date", "environments", "history")


def path_of(folder: Path, study: str) -> Path:
    return folder / f"{study}.json"


def load(path: Path) -> dict[str, Any]:
    """What :func:`put` wrote, of no run where there is no such file.

    Raises:
        UsageError: it is something else.
    """
    if not path.exists():
        return {"study": path.stem, "runs": []}
    try:
        stored = json.loads(path.read_text())
        assert stored["study"] == path.stem and all({"row", "seed"} <= set(run) for run in stored["runs"])
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UsageError(f"{path} is no result of sgr_bench.training; remove it") from error
    return stored


def lacking(run: dict[str, Any], quantity: str) -> list[str]:
    """What a result ought to hold and does not."""
    names = IDENTITY if "failure" in run else (*IDENTITY, *FOUND, quantity)
    return [name for name in names if name not in run]


def put(folder: Path, study: str, result: dict[str, Any]) -> None:
    """Add the result of a run, in the place of that of the same row and seed; several processes may."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        stored = load(path_of(folder, study))
        key = (result["row"], result["seed"])
        stored["runs"] = [run for run in stored["runs"] if (run["row"], run["seed"]) != key]
        stored["runs"].append(result)
        stored["runs"].sort(key=lambda run: (run["row"], run["seed"]))
        lines = ",\n".join(json.dumps(run, allow_nan=False) for run in stored["runs"])  # a line a run, for a diff
        text = f'{{"study": {json.dumps(study)}, "runs": [\n{lines}\n]}}\n'
        part = path_of(folder, study).with_suffix(".part")
        part.write_text(text)
        os.replace(part, path_of(folder, study))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def holds(stored: dict[str, Any], run: Run) -> bool:
    """Whether the result of this very run is there, as of another machine, whose folders of runs are not here."""
    return any(identity(run).items() <= result.items() and "failure" not in result for result in stored["runs"])


def is_finished(run: Run) -> bool:
    return (run.folder / checkpoint.SUMMARY).exists()


def identity(run: Run) -> dict[str, Any]:
    """What a result is of."""
    return {
        "row": run.row.name,
        "seed": run.seed,
        "recipe": run.row.recipe,
        **({"plugin": run.row.plugin} if run.row.plugin else {}),
        "changes": list(run.changes),
        "command": run.command,
    }


def failure(run: Run, reason: str) -> dict[str, Any]:
    """The result of a run that failed, without the paths of this machine."""
    for path, name in ((run.folder, "RUN"), (run.work, "WORK")):
        reason = reason.replace(str(path), name)
    return {**identity(run), "failure": reason}


def result(run: Run, quantity: str) -> dict[str, Any]:
    """That of a finished run.

    Raises:
        UsageError: its files are not as they were written.
    """
    config = read_json(run.folder / checkpoint.CONFIG)
    summary = read_json(run.folder / checkpoint.SUMMARY, config["run"])
    history = derived.read_metrics(run.folder, summary["epochs"])
    where = [{key: value for key, value in each.items() if key != COMMAND} for each in config["environments"]]
    written = (run.folder / checkpoint.SUMMARY).stat().st_mtime
    found = {
        **identity(run),
        **{name: summary[name] for name in dict.fromkeys((*SUMMARY, quantity))},
        "seconds": sum(row["seconds"] for row in history),  # of training
        "date": datetime.datetime.fromtimestamp(written, datetime.timezone.utc).date().isoformat(),
        "data_sha256": config["data_sha256"],
        "environments": where,
        "history": {
            "sgr": [mean(row["sgr"]) for row in history],
            "loss": [row["loss"][-1] for row in history],
            "train_accuracy": [row["train_accuracy"][-1] for row in history],
            "val_accuracy": [row["val_accuracy"] and row["val_accuracy"][-1] for row in history],
        },
    }
    if "lambda" in history[-1]:
        found["lambda"] = history[-1]["lambda"]  # of modules 2 to K, at the end
    if (run.folder / FILE).exists():
        found["history"]["input_change"] = _by_epoch(run.folder / FILE, summary["epochs"])
    return _rounded(found)


def _by_epoch(path: Path, epochs: int) -> list[list[float | None] | None]:
    """Mean over the measured steps of every epoch, of modules 2 to K; None of an epoch without."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changes = [[row["change"] for row in rows if row["epoch"] == epoch] for epoch in range(1, epochs + 1)]
    return [
        [None if None in column else mean(column) for column in zip(*steps, strict=True)] if steps else None
        for steps in changes
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
