"""Folders that are this process's: whose locks it holds, for as long as they are where they were."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UsageError

LOCK = "lock"
_held: dict[Path, int] = {}  # descriptors of locks by folder


def hold(folder: Path, descriptor: int) -> None:
    _held[folder] = descriptor


def let_go(folder: Path) -> None:
    del _held[folder]


def require(folder: Path) -> None:
    """Nothing is written into a folder that was ours and may be another run's by now.

    Raises:
        UsageError: its lock is not the one we hold.
    """
    if folder not in _held:
        return
    try:
        ours = os.path.samestat(os.fstat(_held[folder]), os.stat(folder / LOCK))
    except OSError:
        ours = False
    if not ours:
        raise UsageError(
            f"{folder} was moved, removed or replaced while we used it (its lock is not ours any more); "
            "continue with --resume where it is now"
        )
