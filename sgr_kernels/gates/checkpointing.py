"""Activation checkpointing: a region that a backward pass computes again takes the decisions of the first time."""

import contextlib
from collections.abc import Iterator
from functools import partial

from ..checkpointing import recomputing
from .tape import Record, Replay


def recomputing_along(gates: Record | Replay) -> contextlib.AbstractContextManager:
    """Inside, ``torch.utils.checkpoint`` (``use_reentrant=False``) computes regions again with the decisions taped."""
    return recomputing(lambda: partial(_replaying, gates, gates.position))


@contextlib.contextmanager
def _replaying(gates: Record | Replay, start: int) -> Iterator[None]:
    with Replay(gates.tape, start, gates.rewound) as replay, recomputing_along(replay):
        yield
