"""What the user is told in one line: exceptions that are the user's to mend, and notes."""

from __future__ import annotations

import sys


class UsageError(Exception):
    """Bad input; the message is one line that names what to change."""


class Damaged(UsageError):
    """A file is missing, or not as it was written; the message names it."""


class Diverged(UsageError):
    """Numbers are no longer finite; the message says which."""


def note(text: str) -> None:
    """Tell on standard error what the user should know, but need not mend."""
    print(f"sgr-train: {text}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """What an exception of another library says, without line breaks; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
