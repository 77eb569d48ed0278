"""The console command ``sgr-train``. It can be interrupted from its first moment: the long imports come inside."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for bad input, 130 when interrupted, 141 when the output cannot be written any more.

    (tyro itself exits with 2 on what it cannot parse.)
    """
    with _left_at_an_interrupt():
        from . import commands
    return commands.execute(argv)


@contextlib.contextmanager
def _left_at_an_interrupt() -> Iterator[None]:
    """An exception would not do: what is being imported may catch it, and fail in another way."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: object) -> None:
    os.write(2, b"sgr-train: interrupted; nothing was written\n")
    os._exit(130)
