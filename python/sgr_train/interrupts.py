"""Ctrl-C ends a command, even where Python loses the exception: in a callback of its own, as while it imports."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_asked: list[bool] = []  # not empty: to end


@contextlib.contextmanager
def handler(on_interrupt: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside the ``with``, an interrupt that would be a KeyboardInterrupt calls ``on_interrupt`` instead."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside the ``with``, an interrupt that is lost is raised again by :func:`check`, at the latest at the end."""
    _asked.clear()
    with handler(_ask):
        yield
        check()


def check() -> None:
    """Raises KeyboardInterrupt if there was one."""
    if _asked:
        raise KeyboardInterrupt


def _ask(*_: object) -> None:
    _asked.append(True)
    raise KeyboardInterrupt
