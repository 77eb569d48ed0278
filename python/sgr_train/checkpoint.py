"""What a run keeps in its folder: whose it is, the state to go on from, and what can be made anew from that."""

from __future__ import annotations

import io
import json
import secrets
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .config import NOT_SETTINGS, Settings, command_of, from_json, to_json
from .errors import Damaged, UsageError, note, one_line
from .files import exists, read, read_json, read_sealed, remove, write, write_json, write_sealed

CONFIG, SUMMARY, METRICS = "config.json", "summary.json", "metrics.jsonl"
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
CHECKPOINTS = (CHECKPOINT, PREVIOUS)


# --- the run ----------------------------------------------------------------------------------------------------------


def enter(config: Settings, data: str) -> str:
    """Id of the run in ``config.out``, which begins if the folder holds none.

    Args:
        data: fingerprint of the data.

    Raises:
        UsageError: the folder holds a run with other settings or of other data, or its config.json is damaged.
    """
    if not any(exists(config.out / name) for name in (CONFIG, SUMMARY, METRICS, *CHECKPOINTS)):
        run_id = secrets.token_hex(8)
        write_json(config.out / CONFIG, {**to_json(config), "data_sha256": data}, run_id)
        return run_id
    values = _read_own(config)
    if values["data_sha256"] != data:
        raise UsageError(
            f"--data {config.data} is not the data that the run in {config.out} began with; "
            f"put its images and labels back, or {again(config.out)}"
        )
    return values["run"]


def change(config: Settings, changed: Settings) -> None:
    """Let the run in ``config.out`` go on with other settings. Its summary goes first: it is that of the old ones.

    Raises:
        UsageError: as :func:`id_of`, or the folder cannot be written to.
    """
    values = _read_own(config)
    remove(config.out / SUMMARY)
    write_json(config.out / CONFIG, {**to_json(changed), "data_sha256": values["data_sha256"]}, values["run"])


def id_of(config: Settings) -> str:
    """Id of the run in ``config.out``.

    Raises:
        UsageError: as :func:`enter`, but for the data.
    """
    return _read_own(config)["run"]


def read_config(folder: Path, command: str) -> Settings:
    """Settings stored in a run folder.

    Raises:
        UsageError: it is not a folder of this command, or its settings were changed.
    """
    try:
        config = from_json(read_json(folder / CONFIG))
    except Damaged as error:
        what = f"{error}{_edited(folder)}"
        remedy = f"put it back or {again(folder)}"
        raise UsageError(f"{folder} is not a run folder as written: {what}; {remedy}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{folder} was written by another version of sgr-train; {again(folder)}") from error
    owner = command_of(config)
    if owner != command:
        raise UsageError(f"{folder} belongs to another command: {resume_command(owner, folder)}")
    return config


def again(folder: Path) -> str:
    """What to do with a run that cannot go on; one of several takes nothing from the others."""
    one_of_several = exists(folder.absolute().parent / CONFIG)
    return f"remove {folder} to train it again" if one_of_several else "start again with another --out"


def resume_command(command: str, folder: Path) -> str:
    """What to type into a shell."""
    return f"sgr-train {command} --resume {shlex.quote(str(folder))}"


def _read_own(config: Settings) -> dict[str, Any]:
    """What config.json holds, if it is of a run with these very settings."""
    path = config.out / CONFIG
    try:
        values = read_json(path)
    except Damaged as error:
        raise UsageError(f"{error}; put it back or {again(config.out)}") from error
    changed = _changes(values, to_json(config))
    if changed:
        raise UsageError(f"{path} belongs to a run with other settings ({changed}); {again(config.out)}")
    return values


def _edited(folder: Path) -> str:
    """Which settings in config.json are not those in the checkpoint, in parentheses, if both can be read."""
    try:
        found, written = json.loads((folder / CONFIG).read_text()), load_state(folder / CHECKPOINT)["settings"]
        changed = _changes(found, written)
    except (UsageError, OSError, ValueError, TypeError, AttributeError):
        return ""
    return changed and f" ({changed})"


def _changes(found: dict[str, Any], expected: dict[str, Any]) -> str:
    names = sorted(name for name in {*found, *expected} - NOT_SETTINGS if found.get(name) != expected.get(name))
    return ", ".join(f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in names)


# --- the state --------------------------------------------------------------------------------------------------------


def save_state(path: Path, state: dict[str, Any], run: str) -> None:
    """Write a checkpoint; the one before it is kept."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_sealed(path, buffer.getvalue(), run, previous=path.with_name(PREVIOUS))


def load_state(path: Path, run: str | None = None) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; tensors are put on the CPU.

    Raises:
        Damaged: it is missing, damaged, or of another run.
    """
    content = read_sealed(path, run)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # intact, but of another version of PyTorch
        raise Damaged(f"{path} cannot be read by this version of PyTorch ({one_line(error)})") from error


def load_latest(folder: Path, run: str) -> dict[str, Any] | None:
    """The last good state, that of the previous checkpoint if need be, or None of a run that has saved none yet.

    Raises:
        UsageError: there is no good one.
    """
    newest, previous = folder / CHECKPOINT, folder / PREVIOUS
    if not any(exists(folder / name) for name in (*CHECKPOINTS, METRICS, SUMMARY)):
        return None
    try:
        return load_state(newest, run)
    except Damaged as error:
        try:
            state = load_state(previous, run)
        except Damaged as other:
            raise UsageError(f"{error}, and {other}; {again(folder)}") from other
        note(f"{error}; going on from {previous.name}, epoch {len(state['history'])}")
        write(newest, previous.read_bytes())  # else the damaged one would be kept as the previous one of the next
        return state


def found_cuts(config: Settings) -> tuple[int, ...]:
    """The cuts of the network of the run in ``config.out``; () of a run that has saved none yet.

    Raises:
        UsageError: as :func:`id_of` and :func:`load_latest`.
    """
    if config.out is None or not any(exists(config.out / name) for name in CHECKPOINTS):
        return ()
    return tuple(load_latest(config.out, id_of(config))["cuts"])


# --- what follows from it ---------------------------------------------------------------------------------------------


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
