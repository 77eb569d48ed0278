"""What follows from the state of a run, and is made anew from it: metrics, summary and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checkpoint import METRICS, SUMMARY
from .errors import Damaged, UsageError, note, one_line
from .files import read, read_json, read_sealed, write, write_sealed


def write_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    write(folder / METRICS, _lines(history))


def restore_metrics(folder: Path, history: list[dict[str, Any]]) -> None:
    """Make metrics.jsonl what the checkpoint says; in silence where it is an epoch apart, as an interrupt leaves it."""
    path, lines = folder / METRICS, _lines(history)
    try:
        found = path.read_bytes()
    except OSError:
        found = b""
    continues = lines.startswith(found) or found.startswith(lines)
    if not continues or abs(found.count(b"\n") - len(history)) > 1:
        note(f"{path} is missing, damaged or was changed; it is written anew from the checkpoint")
    if found != lines:
        write(path, lines)


def read_metrics(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, which has no checksum.

    Raises:
        Damaged: it has not a row an epoch.
    """
    path = folder / METRICS
    try:
        rows = [json.loads(line) for line in read(path).splitlines()]
    except ValueError as error:
        raise Damaged(f"{path} is damaged: it is no JSON") from error
    if len(rows) != epochs:
        raise Damaged(f"{path} is damaged: it has {len(rows)} epochs, not {epochs}")
    return rows


def read_summary(folder: Path, run: str) -> dict[str, Any] | None:
    """The summary of a finished run, or None where it cannot be relied on, which a note says."""
    try:
        summary = read_json(folder / SUMMARY, run)
    except Damaged as error:
        note(f"{error}; it is made anew from the checkpoint")
        return None
    del summary["run"]
    return summary


def draw(path: Path, run: str, plot: Callable[[], bytes]) -> bool:
    """Write a picture. It is not worth a run: where it cannot be drawn or written, a note says so, and the result."""
    try:
        write_sealed(path, plot(), run)
    except Exception as error:
        note(f"{path} could not be drawn ({one_line(error)}); everything else is written")
        return False
    return True


def redraw(path: Path, run: str, plot: Callable[[], bytes]) -> None:
    """Draw a picture again that is missing, damaged or cannot be read, which a note says."""
    try:
        read_sealed(path, run)
    except UsageError as error:
        if draw(path, run, plot):
            note(f"{error}; it is drawn anew")


def _lines(history: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in history).encode()
