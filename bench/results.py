"""Rows of measurements, written as they come, with the machine and the command that made them."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import torch
from sgr_train.environment import processor

import sgr_kernels as sk

STORED = pathlib.Path(__file__).parent / "results"


class Writer:
    """Adds rows to ``folder/part-device.json``. Every row is on disk as soon as it is there: a stop loses nothing."""

    def __init__(self, folder: pathlib.Path | None, part: str, device: str, command: str) -> None:
        self.result = {"part": part, "date": today(), "command": command, "machine": machine(device), "rows": []}
        self.result |= {"undefined": [], "failures": []}
        self.path = folder / f"{part}-{device}.json" if folder is not None else None

    def add(self, row: dict[str, Any]) -> None:
        """A row with a ``failure`` or with why it is ``undefined`` stands apart from those that were measured."""
        kind = "failures" if "failure" in row else "undefined" if "undefined" in row else "rows"
        self.result[kind].append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.result, indent=1) + "\n")


def load(path: pathlib.Path) -> dict[str, Any]:
    """A result; every row carries the date and the machine of the file it stands in."""
    result = json.loads(path.read_text())
    shared = {"date": result["date"], "machine": result["machine"]}
    return {**result, "rows": [{**shared, **row} for row in result["rows"]]}


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on besides the command."""
    facts = {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sgr_kernels": sk.__version__,
        "revision": _revision(),
    }
    if device == "cuda":
        import triton

        facts |= {"cuda": torch.version.cuda, "triton": triton.__version__, "driver": _driver()}
    return facts


def today() -> str:
    return datetime.date.today().isoformat()


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _revision() -> str | None:
    """Commit of the sources measured, with a plus sign where they have changed since; None outside of a checkout."""
    folder = pathlib.Path(sk.__file__).parent
    commit = _output("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    changed = commit and _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
