"""Paths as users give them."""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError


def expand(path: Path | str) -> Path:
    """``~`` is the home folder, also where the shell leaves it alone, as in ``npz:~/x.npz``."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such home folder; give the whole path") from error
