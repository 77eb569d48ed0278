"""What a run goes on from: its config.json, which says whose the folder is, and its checkpoints."""

from __future__ import annotations

import io
import json
import secrets
import shlex
from pathlib import Path
from typing import Any

import torch

from . import environment, plugins
from .config import NOT_SETTINGS, Settings, command_of, from_json, to_json
from .errors import Damaged, UsageError, note, one_line
from .files import exists, put_aside, read, read_json, read_sealed, remove, write, write_json, write_sealed

CONFIG, SUMMARY, METRICS = "config.json", "summary.json", "metrics.jsonl"
CHECKPOINT, PREVIOUS, BEST = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.best.pt"
CHECKPOINTS = (CHECKPOINT, PREVIOUS)  # of the last state


# --- the run ----------------------------------------------------------------------------------------------------------


def enter(config: Settings, data: str, device: torch.device) -> str:
    """Id of the run in ``config.out``, which begins if the folder holds none.

    Args:
        data: fingerprint of the data.
        device: that it begins on.

    Raises:
        UsageError: the folder holds a run with other settings, data or plug-ins, or its config.json is damaged.
    """
    if not _has_begun(config.out):
        run_id, now = secrets.token_hex(8), environment.describe(device)
        facts = {"data_sha256": data, "plugin_sha256": plugins.fingerprints(config.plugin), "environments": [now]}
        write_json(config.out / CONFIG, {**to_json(config), **facts}, run_id)
        return run_id
    values = _read_own(config)
    require_plugins(config, values)
    if values["data_sha256"] != data:
        raise UsageError(
            f"--data {config.data} is not the data that the run in {config.out} began with; "
            f"put its images and labels back, or {again(config.out)}"
        )
    return values["run"]


def keep_environment(config: Settings, device: torch.device) -> None:
    """Write down where the run in ``config.out`` goes on; a note tells when that is not where it was before."""
    values, now = _read_own(config), environment.describe(device)
    before = values.get("environments", [])
    changed = environment.differences(before[-1], now) if before else ""
    if changed:
        note(f"{config.out} goes on in another environment ({changed}); the last digits may differ")
    if changed or not before:
        write_json(config.out / CONFIG, {**values, "environments": [*before, now]}, values["run"])


def change(config: Settings, changed: Settings) -> None:
    """Let the run in ``config.out`` go on with other settings. Its summary goes first: it is that of the old ones.

    Raises:
        UsageError: as :func:`id_of`, or the folder cannot be written to.
    """
    values = _read_own(config)
    remove(config.out / SUMMARY)
    write_json(config.out / CONFIG, {**values, **to_json(changed)}, values["run"])


def id_of(config: Settings) -> str:
    """Id of the run in ``config.out``.

    Raises:
        UsageError: as :func:`enter`, but for the data and the plug-ins.
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


def _has_begun(folder: Path) -> bool:
    return any(exists(folder / name) for name in (CONFIG, SUMMARY, METRICS, *CHECKPOINTS, BEST))


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


def require_plugins(config: Settings, values: dict[str, Any] | None = None) -> None:
    """Raises UsageError where a plug-in file is not the one that the run in ``config.out`` began with.

    Args:
        values: of its config.json. None: they are read.
    """
    began = (values or _read_own(config)).get("plugin_sha256", {})
    now = plugins.fingerprints(config.plugin)
    for file, digest in now.items():
        if digest != began.get(file, digest):
            put_back = f"put it back, or {again(config.out)}"
            raise UsageError(f"--plugin {file} is not the file that the run in {config.out} began with; {put_back}")


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


def save_state(path: Path, state: dict[str, Any], run: str, *, best: bool = False) -> None:
    """Write a checkpoint; the one before it is kept, and one that is the best until there is a better one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_sealed(path, buffer.getvalue(), run, previous=path.with_name(PREVIOUS))
    if best:
        write_sealed(path.with_name(BEST), buffer.getvalue(), run)


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


def load_latest(folder: Path, run: str, *, repair: bool = False) -> dict[str, Any] | None:
    """The last good state, or None of a run that has saved none yet. A note says which it is if not the newest.

    Args:
        repair: put files that are not good aside, and the good one in the place of the newest: for the folder's owner.

    Raises:
        UsageError: there is no good one.
    """
    if not any(exists(folder / name) for name in (*CHECKPOINTS, BEST, METRICS, SUMMARY)):
        return None
    refused: dict[Path, Damaged] = {}
    for path in (folder / name for name in (*CHECKPOINTS, BEST)):
        try:
            state = load_state(path, run)
        except Damaged as error:
            refused[path] = error
            continue
        if refused:
            aside = [f"kept as {name}" for name in map(put_aside, refused) if name] if repair else []
            reasons = ", and ".join(map(str, refused.values()))
            taken = f"{'going on from' if repair else 'taking'} {path.name}, epoch {len(state['history'])}"
            note("; ".join([reasons, *aside, taken]))
        if refused and repair:
            write(folder / CHECKPOINT, read(path))
        return state
    raise UsageError(f"{', and '.join(map(str, refused.values()))}; {again(folder)}")


def load_own(config: Settings) -> dict[str, Any] | None:
    """The last good state of the run in ``config.out``, which is ours to go on with; None if it has saved none yet.

    Raises:
        UsageError: as :func:`enter`, but for the data, and :func:`load_latest`.
    """
    if not _has_begun(config.out):
        return None
    values = _read_own(config)
    require_plugins(config, values)
    return load_latest(config.out, values["run"], repair=True)


def found_cuts(config: Settings) -> tuple[int, ...]:
    """The cuts that "auto" found for the run in ``config.out``; () of any other, or one that has saved no state yet.

    Raises:
        UsageError: as :func:`id_of` and :func:`load_latest`.
    """
    if config.cuts != ("auto",) or not _has_begun(config.out):
        return ()
    state = load_latest(config.out, id_of(config))
    return () if state is None else tuple(state["cuts"])
