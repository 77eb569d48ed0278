"""Activation checkpointing: what a backward pass computes again takes the decisions that were taken before."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch.utils.checkpoint

from .tape import Record, Replay


class _Current(threading.local):
    gates: Record | Replay | None = None


_CURRENT = _Current()


@contextlib.contextmanager
def recomputing_along(gates: Record | Replay) -> Iterator[None]:
    """Regions that ``torch.utils.checkpoint`` opens here meanwhile (``use_reentrant=False``) follow the tape."""
    _take_part()
    before, _CURRENT.gates = _CURRENT.gates, gates
    try:
        yield
    finally:
        _CURRENT.gates = before


@functools.cache
def _take_part() -> None:
    """Once and for all threads; it changes nothing where no gates are current.

    torch lets the caller give contexts for the recomputation, but here the network is the caller. What torch makes at
    the start of a region, a frame with the function that computes it again, is the one place to put them in.
    """
    checkpoint = torch.utils.checkpoint
    checkpoint._CheckpointFrame = functools.partial(_make_frame, checkpoint._CheckpointFrame)
    if hasattr(checkpoint, "_NoopSaveInputs"):  # older versions keep the inputs of a region in an autograd Function
        checkpoint._NoopSaveInputs = SimpleNamespace(apply=_unseen(checkpoint._NoopSaveInputs.apply))


def _make_frame(make: Callable, recompute: Callable, *args, **kwargs):
    gates = _CURRENT.gates
    if gates is None:
        return make(recompute, *args, **kwargs)
    start = gates.position

    def recompute_along(*inputs):
        with Replay(gates.tape, start) as replay, recomputing_along(replay):
            recompute(*inputs)

    frame = make(recompute_along, *args, **kwargs)
    if hasattr(frame, "save_inputs"):
        frame.save_inputs = _unseen(frame.save_inputs)
    return frame


def _unseen(function: Callable) -> Callable:
    """What checkpointing does with its own tensors is no part of the network."""

    def call(*args):
        with torch._C.DisableTorchFunction() if _CURRENT.gates is not None else contextlib.nullcontext():
            return function(*args)

    return call
