"""What the user is told: results, notes, and the exceptions that end in one line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UsageError(Exception):
    """Bad input; the message is one line that names what to change."""


class Damaged(UsageError):
    """A file is missing, or not as it was written; the message names it."""


class Diverged(UsageError):
    """Numbers are no longer finite; the message says which."""


class NoOutput(Exception):
    """Standard output cannot be written to: nobody reads it any more, or its disk is full."""


@contextlib.contextmanager
def needed(flag: str, package: str) -> Iterator[None]:
    """Raises UsageError where what is inside cannot import a package: one that is broken may raise anything."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{flag} needs the package {package}: {one_line(error)}") from error


def say(text: str) -> None:
    """Print a result.

    Raises:
        NoOutput
    """
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # the name of a folder in a locale that lacks its letters
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except OSError as error:
        raise NoOutput(error.strerror) from error


def note(text: str) -> None:
    """Tell on standard error what the user should know."""
    with contextlib.suppress(OSError):  # nobody reads that either
        print(f"sgr-train: {text}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """What an exception of another library says, without line breaks; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
