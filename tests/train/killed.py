"""A process that trains and dies, at a moment or in a call: what kill -9 and a crash of the system do."""

from __future__ import annotations

import os
import signal

import matplotlib.figure  # noqa: F401  with what else takes time to import, once for all processes that are forked
import sklearn.datasets  # noqa: F401
import torch
from sgr_train import cli, commands, files, networks  # noqa: F401

with torch.device("meta"):
    networks.create("plainnet", num_classes=10, image_shape=(1, 8, 8))


def train(words: list[str], call: str | None, count: int, errors: str = "") -> None:
    """The command line; with a ``call`` of os that files are written by, the process dies before its ``count``-th.

    Errors go to a file if there is one. Signals are as in a process that a shell starts.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if errors:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if call is not None:
        _die_in(call, count)
    raise SystemExit(cli.main(words))


def _die_in(call: str, count: int) -> None:
    original, left = getattr(os, call), [count]

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(files.os, call, counted)
