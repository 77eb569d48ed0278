"""Activation checkpointing: a region that a backward pass computes again takes the decisions of the first time."""

import contextlib
import functools
import threading
from collections.abc import Callable

from .. import torch_internals
from .tape import Record, Replay


class _Current(threading.local):
    gates: Record | Replay | None = None


_CURRENT = _Current()
_FIRST = threading.Lock()


class recomputing_along:
    """Inside, ``torch.utils.checkpoint`` (``use_reentrant=False``) computes regions again with the decisions taped."""

    def __init__(self, gates: Record | Replay) -> None:
        self.gates = gates

    def __enter__(self) -> None:
        _intercept_once()
        self.before, _CURRENT.gates = _CURRENT.gates, self.gates

    def __exit__(self, *error) -> None:
        _CURRENT.gates = self.before


def _intercept_once() -> None:
    """The interception holds for all threads and all time; without current gates it changes nothing."""
    with _FIRST:  # two threads at once would both intercept, and regions be computed along two tapes
        _intercept()


@functools.cache
def _intercept() -> None:
    torch_internals.intercept_checkpoints(_along_the_tape, _hidden_from_gates)


def _along_the_tape(recompute: Callable) -> Callable:
    """``recompute`` with the decisions that the region now entered takes."""
    gates = _CURRENT.gates
    if gates is None:
        return recompute
    start = gates.position

    def recompute_along(*inputs):
        with Replay(gates.tape, start, gates.rewound) as replay, recomputing_along(replay):
            recompute(*inputs)

    return recompute_along


def _hidden_from_gates(keep_inputs: Callable) -> Callable:
    """``keep_inputs``, unseen by gates: the functions of torch that it calls are no part of the network."""

    @functools.wraps(keep_inputs)
    def call(*args):
        hidden = _CURRENT.gates is not None
        with torch_internals.outside_of_all_modes() if hidden else contextlib.nullcontext():
            return keep_inputs(*args)

    return call
