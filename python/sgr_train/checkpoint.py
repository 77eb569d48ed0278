"""The run folder: claiming it, writing into it atomically, and reading it back."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from .config import Settings, command_of, from_json, to_json
from .errors import UsageError

CONFIG, CHECKPOINT, SUMMARY, METRICS = "config.json", "checkpoint.pt", "summary.json", "metrics.jsonl"


def claim(folder: Path) -> None:
    """Make sure that ``folder`` exists, is empty and can be written to.

    Raises:
        UsageError: it holds something, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CONFIG).exists():
            raise UsageError(f"--out {folder} already holds a run; continue it with --resume or choose another --out")
        if any(folder.iterdir()):
            raise UsageError(f"--out {folder} is not empty; choose another --out")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written to: {error.strerror}; choose another --out") from error


def write(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: a reader, or an interrupted writer, never leaves half of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; free some space or choose another --out") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2) + "\n")


def write_config(config: Settings) -> None:
    write_json(config.out / CONFIG, to_json(config))


def read_config(folder: Path, command: str) -> Settings:
    """Settings stored in a run folder.

    Raises:
        UsageError: it is not a folder of this command.
    """
    try:
        config = from_json(json.loads((folder / CONFIG).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--resume {folder} is not a run folder: it has no readable {CONFIG}") from error
    owner = command_of(config)
    if owner != command:
        raise UsageError(f"--resume {folder} belongs to another command: sgr-train {owner} --resume {folder}")
    return config


def save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; tensors are put on the CPU.

    Raises:
        UsageError: there is no such file, or it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UsageError(f"{path} is missing or damaged (truncated?); start again with another --out") from error
