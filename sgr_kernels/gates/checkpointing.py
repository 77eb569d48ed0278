"""Activation checkpointing: a region that a backward pass computes again takes the decisions of the first time."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

from .. import torch_internals
from .tape import Record, Replay


class _Current(threading.local):
    gates: Record | Replay | None = None


_CURRENT = _Current()


@contextlib.contextmanager
def recomputing_along(gates: Record | Replay) -> Iterator[None]:
    """Inside, regions of ``torch.utils.checkpoint`` (``use_reentrant=False``) are recomputed with the decisions on the
    tape of ``gates``.
    """
    _intercept_once()
    before, _CURRENT.gates = _CURRENT.gates, gates
    try:
        yield
    finally:
        _CURRENT.gates = before


@functools.cache
def _intercept_once() -> None:
    """The interception holds for all threads and all time; without current gates it changes nothing."""
    torch_internals.intercept_checkpoints(_along_the_tape, _hidden_from_gates)


def _along_the_tape(recompute: Callable) -> Callable:
    """``recompute`` of a region that is being entered, with the decisions from here on."""
    gates = _CURRENT.gates
    if gates is None:
        return recompute
    start = gates.position

    def recompute_along(*inputs):
        with Replay(gates.tape, start) as replay, recomputing_along(replay):
            recompute(*inputs)

    return recompute_along


def _hidden_from_gates(keep_inputs: Callable) -> Callable:
    """Keeping the inputs of a region calls functions of torch that are no part of the network: gates must not see
    them.
    """

    @functools.wraps(keep_inputs)
    def call(*args):
        hidden = _CURRENT.gates is not None
        with torch_internals.outside_of_all_modes() if hidden else contextlib.nullcontext():
            return keep_inputs(*args)

    return call
