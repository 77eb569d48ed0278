"""Files of a run: written whole or not at all, to the disk itself, and read only as they were written.

Each says to which run it belongs and carries its SHA-256: JSON as two more keys, other files as a last line, which
readers of PNG files and of PyTorch's archives pass over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from . import ownership
from .errors import Damaged, NotWritten, UsageError

SEAL_KEYS = ("run", "sha256")
LAST_LINE = re.compile(rb"\nsgr-train run=(\w*) sha256=(\w{64})\n\Z")
REMEDIES = {
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "make it writable",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the largest size of a file (ulimit -f)",
    errno.EISDIR: "remove it",
    errno.ENOENT: "put its folder back",
    errno.ENOTDIR: "put its folder back",
}


def write(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file whole or not at all: a reader, or an interrupted writer, never leaves half of it.

    ``previous`` keeps what ``path`` held before. Without it, a file that holds this content already is left alone.
    """
    if previous is None and _holds(path, content):
        return
    ownership.require(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        os.replace(part, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        path.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def put_aside(path: Path) -> str | None:
    """Rename a file, so that nothing is written over it; its new name, or None where there is no such file."""
    if not os.path.lexists(path):
        return None
    names = itertools.chain([f"{path.name}.aside"], (f"{path.name}.aside-{number}" for number in itertools.count(2)))
    name = next(name for name in names if not os.path.lexists(path.with_name(name)))
    try:
        os.rename(path, path.with_name(name))
        _flush_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    return name


def _flush_folder(folder: Path) -> None:
    """A name is safe from a crash of the system when its folder is on the disk; Windows opens no folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> NotWritten:
    """What to say of a file that could not be written, or of the one that stood in its way."""
    remedy = REMEDIES.get(error.errno, "choose another --out")
    name = error.filename2 or error.filename or path
    return NotWritten(f"cannot write {name}: {error.strerror}; {remedy}")


def exists(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        UsageError: its folder may not be looked into.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot_read(path, error) from error
    return True


def read(path: Path) -> bytes:
    """What a file holds.

    Raises:
        Damaged: it is missing, or cannot be read.
        UsageError: it may not be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except PermissionError as error:  # it may be intact
        raise _cannot_read(path, error) from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def write_sealed(path: Path, content: bytes, run: str, previous: Path | None = None) -> None:
    """Write ``content`` and the line that :func:`read_sealed` checks."""
    write(path, content + b"\nsgr-train run=%b sha256=%b\n" % (run.encode(), _digest(content)), previous)


def read_sealed(path: Path, run: str | None = None) -> bytes:
    """What :func:`write_sealed` wrote, for the run ``run``, or for any.

    Raises:
        Damaged: it is not that.
        UsageError: it may not be read.
    """
    content = read(path)
    seal = LAST_LINE.search(content, max(0, len(content) - 200))
    if seal is None:
        raise Damaged(f"{path} is damaged: its checksum is missing")
    content = content[: seal.start()]
    _check(path, seal[2] == _digest(content), seal[1].decode(), run)
    return content


def write_json(path: Path, value: dict[str, Any], run: str) -> None:
    value = {**value, "run": run}
    value["sha256"] = _digest(_canonical(value)).decode()
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, run: str | None = None) -> dict[str, Any]:
    """What :func:`write_json` wrote, for the run ``run``, or for any, with the key "run".

    Raises:
        Damaged: it is not that.
        UsageError: it may not be read.
    """
    try:
        value = json.loads(read(path))
    except ValueError as error:  # also bytes that are no text
        raise Damaged(f"{path} is damaged: it is no JSON") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in SEAL_KEYS):
        raise Damaged(f"{path} is damaged or of an earlier version: its checksum is missing")
    digest = value.pop("sha256").encode()
    _check(path, digest == _digest(_canonical(value)), value["run"], run)
    return value


def _check(path: Path, intact: bool, owner: str, run: str | None) -> None:
    if not intact:
        raise Damaged(f"{path} is damaged or was changed: its checksum does not match")
    if run not in (None, owner):
        raise Damaged(f"{path} belongs to another run")


def _cannot_read(path: Path, error: OSError) -> UsageError:
    closed = "it" if os.access(path.parent, os.X_OK) else path.parent
    return UsageError(f"{path} cannot be read: {error.strerror}; make {closed} readable")


def _keep(path: Path, previous: Path) -> None:
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system without links
        write(previous, path.read_bytes())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
