"""A run folder has one owner: the process that holds its lock, which the system takes back when a process dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from . import ownership
from .errors import UsageError, note
from .files import cannot_write
from .ownership import LOCK

READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
LEFT_BEHIND = {LOCK, "config.json.part"}  # all that a process leaves that is killed before a run begins


@contextlib.contextmanager
def new_folder(out: Path | None, command: str) -> Iterator[Path]:
    """A folder that is empty and ours alone inside the ``with``; one we made is removed if nothing was written.

    Raises:
        UsageError: it holds something, is in use, or cannot be written to.
    """
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}"
    try:
        folder, made = (_first_unused(folder), True) if out is None else (out, _make(out))
        _refuse_content(folder)
        try:
            descriptor = _acquire(folder)
        except BaseException:
            _remove_empty(folder, made)
            raise
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written to: {error.strerror}; choose another --out") from error
    try:
        _refuse_content(folder)  # what its last owner wrote before it let go
        yield folder
    finally:
        _release(folder, descriptor)
        _remove_empty(folder, made)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else uses an existing ``folder`` inside the ``with``. One that cannot be written to needs no lock.

    Raises:
        UsageError: another process uses it, or its lock cannot be opened.
    """
    try:
        descriptor = _acquire(folder)
    except OSError as error:
        if error.errno not in READ_ONLY or os.path.lexists(folder / LOCK):
            raise cannot_write(folder / LOCK, error) from error
        yield  # a finished run can be shown, and another one ends at the first file it writes
        return
    try:
        yield
    finally:
        _release(folder, descriptor)


def make_folder(folder: Path) -> None:
    """Make sure that a folder exists inside one of ours."""
    try:
        _make(folder)
        next(folder.iterdir(), None)
    except PermissionError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}; make it readable") from error
    except OSError as error:
        raise UsageError(f"{folder} cannot be a folder: {error.strerror}; remove what is in its place") from error


def _remove_empty(folder: Path, made: bool) -> None:
    if made:
        with contextlib.suppress(OSError):  # it is not empty: something was written
            folder.rmdir()


def _make(folder: Path) -> bool:
    """Make sure that a folder exists; whether we made it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _first_unused(folder: Path) -> Path:
    """Make ``folder``, or with the first number after its name that nobody else has made."""
    names = chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in count(2)))
    return next(path for path in names if _make(path))


def _refuse_content(folder: Path) -> None:
    content = {path.name for path in folder.iterdir()} - LEFT_BEHIND
    if "config.json" in content:
        raise UsageError(f"--out {folder} already holds a run; continue it with --resume or choose another --out")
    if content:
        raise UsageError(f"--out {folder} is not empty; choose another --out")


def _acquire(folder: Path) -> int:
    """Descriptor of the locked file.

    Raises:
        UsageError: another process holds the lock.
        OSError: the file cannot be opened.
    """
    path = folder / LOCK
    while True:
        descriptor = _open(path)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError) as error:
            os.close(descriptor)
            raise UsageError(f"{folder} is in use by another sgr-train; wait for it or choose another --out") from error
        except OSError as error:
            note(f"{folder} is on a file system without locks ({error.strerror}); start nothing else in this folder")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                ownership.hold(folder, descriptor)
                return descriptor
        os.close(descriptor)  # its last owner removed the file between our two calls


def _open(path: Path) -> int:
    """The lock's file, made if there is none; that of another user, which we may only read, locks as well."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in READ_ONLY:
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY)
        raise


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(folder: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError, UsageError):  # Windows keeps a file that is open
        ownership.require(folder)  # the lock of another run stays
        (folder / LOCK).unlink()
    ownership.let_go(folder)
    os.close(descriptor)
