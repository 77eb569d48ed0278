"""The console command ``sgr-train``. It can be interrupted from its first moment: the long imports come inside."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .interrupts import handler


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for bad input, 130 or 143 when interrupted, 141 when the output cannot be written any more."""
    _open_closed_outputs()
    with handler(_leave):  # an exception would not do: what is being imported may catch it, and fail in another way
        try:
            from . import commands
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("sgr_"):
                raise
            print(f"sgr-train: needs the package {error.name}: pip install 'sgr-kernels[train]'", file=sys.stderr)
            return 2
    return commands.execute(argv)


def _open_closed_outputs() -> None:
    """An output that was closed for us (``>&-``) is None to Python, and its number would go to the next file."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _leave(number: int, _: object) -> None:
    os.write(2, b"sgr-train: interrupted before it began; nothing was changed\n")
    os._exit(128 + number)
