"""What stands behind the colon in ``--data NAME:ARGUMENT``."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..paths import expand


def refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise UsageError(f"--data {name} takes nothing behind a colon, got {argument!r}")


def path_argument(name: str, argument: str) -> Path:
    if not argument:
        raise UsageError(f"--data {name} needs a path: {name}:PATH")
    return expand(argument)
