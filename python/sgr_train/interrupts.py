"""Ctrl-C and SIGTERM end a command, even where Python loses the exception: in a callback of its own, as in imports."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}  # and what Python does at first
_asked: list[int] = []  # the signals that came
_process = os.getpid()  # which they are for


@contextlib.contextmanager
def handler(on_signal: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the ``with``, a signal that would end the process as Python or the system does calls ``on_signal``."""
    ours = threading.current_thread() is threading.main_thread()
    taken = {number: own for number, own in SIGNALS.items() if ours and signal.getsignal(number) is own}
    for number in taken:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, own in taken.items():
            signal.signal(number, own)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside the ``with``, an interrupt that is lost is raised again by :func:`check`, at the latest at the end.

    What fails after an interrupt failed by it: ``timeout`` and others end the processes that work for this one too.
    """
    global _process
    _process = os.getpid()
    _asked.clear()
    with handler(_ask):
        try:
            yield
        finally:
            check()


def check() -> None:
    """Raises KeyboardInterrupt if there was one."""
    if _asked:
        raise KeyboardInterrupt


def exit_status() -> int:
    """Of a process that the last signal ended, as shells have it."""
    return 128 + (_asked[-1] if _asked else signal.SIGINT)


def _ask(number: int, _: FrameType | None) -> None:
    if os.getpid() != _process:  # a fork that has not set handlers of its own yet: it ends in silence
        os._exit(128 + number)
    _asked.append(number)
    raise KeyboardInterrupt
