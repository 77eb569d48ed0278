"""Activation checkpointing: a region that a backward pass computes again is computed as it was the first time."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable

from . import torch_internals

MakeContext = Callable[[], contextlib.AbstractContextManager]


class _Current(threading.local):
    entered: Callable[[], MakeContext] | None = None


_CURRENT = _Current()
_FIRST = threading.Lock()


class recomputing:
    """Inside, ``torch.utils.checkpoint`` (``use_reentrant=False``) computes regions again in a context.

    Args:
        entered: called where a forward pass enters a region; gives a function that makes the context for it.
    """

    def __init__(self, entered: Callable[[], MakeContext]) -> None:
        self.entered = entered

    def __enter__(self) -> None:
        _intercept_once()
        self.before, _CURRENT.entered = _CURRENT.entered, self.entered

    def __exit__(self, *error) -> None:
        _CURRENT.entered = self.before


def _intercept_once() -> None:
    """The interception holds for all threads and all time; outside of :class:`recomputing` it changes nothing."""
    with _FIRST:  # two threads at once would both intercept, and regions be computed in two contexts
        _intercept()


@functools.cache
def _intercept() -> None:
    torch_internals.intercept_checkpoints(_in_context, _hidden_from_modes)


def _in_context(recompute: Callable) -> Callable:
    """``recompute`` in the context of the region now entered."""
    if _CURRENT.entered is None:
        return recompute
    make = _CURRENT.entered()

    def recompute_in_context(*inputs):
        with make():
            recompute(*inputs)

    return recompute_in_context


def _hidden_from_modes(keep_inputs: Callable) -> Callable:
    """``keep_inputs``, unseen by function modes: the functions that it calls are no part of the network."""

    @functools.wraps(keep_inputs)
    def call(*args):
        hidden = _CURRENT.entered is not None
        with torch_internals.outside_of_all_modes() if hidden else contextlib.nullcontext():
            return keep_inputs(*args)

    return call
