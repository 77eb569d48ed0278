"""The console command ``sgr-train``. It can be interrupted from its first moment: the long imports come inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for bad input, 130 when interrupted, 141 when nobody reads the output any more.

    (tyro itself exits with 2 on what it cannot parse.)
    """
    try:
        from . import commands
    except KeyboardInterrupt:
        print("sgr-train: interrupted; nothing was written", file=sys.stderr)
        return 130
    return commands.execute(argv)
