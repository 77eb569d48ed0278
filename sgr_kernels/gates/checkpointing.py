"""Activation checkpointing: what a backward pass computes again takes the decisions that were taken before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch.utils.checkpoint

from .tape import Record, Replay


@contextlib.contextmanager
def recomputing_along(gates: Record | Replay) -> Iterator[None]:
    """Regions that ``torch.utils.checkpoint`` opens meanwhile (``use_reentrant=False``) follow the tape of ``gates``.

    torch lets the caller give contexts for the recomputation, but here the network is the caller. What torch makes at
    the start of a region, a frame with the function that computes it again, is the one place to put them in.
    """
    make_frame, owner = torch.utils.checkpoint._CheckpointFrame, threading.get_ident()

    def make_frame_with_gates(recompute: Callable, *args, **kwargs):
        if threading.get_ident() != owner:
            return make_frame(recompute, *args, **kwargs)
        start = gates.position

        def recompute_along(*inputs):
            with Replay(gates.tape, start) as replay, recomputing_along(replay):
                recompute(*inputs)

        frame = make_frame(recompute_along, *args, **kwargs)
        if hasattr(frame, "save_inputs"):
            frame.save_inputs = _unseen(frame.save_inputs)
        return frame

    with _replaced("_CheckpointFrame", make_frame_with_gates), _older_versions():
        yield


@contextlib.contextmanager
def _older_versions() -> Iterator[None]:
    """They keep inputs in an autograd Function."""
    saver = getattr(torch.utils.checkpoint, "_NoopSaveInputs", None)
    if saver is None:
        yield
    else:
        with _replaced("_NoopSaveInputs", SimpleNamespace(apply=_unseen(saver.apply))):
            yield


@contextlib.contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    original = getattr(torch.utils.checkpoint, name)
    setattr(torch.utils.checkpoint, name, value)
    try:
        yield
    finally:
        setattr(torch.utils.checkpoint, name, original)


def _unseen(function: Callable) -> Callable:
    """What checkpointing does with its own tensors is no part of the network."""

    def call(*args):
        with torch._C.DisableTorchFunction():
            return function(*args)

    return call
