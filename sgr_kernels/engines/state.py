"""What a pass changes besides its results, kept and put back; and which pairs of body and head need no more checks."""

import random
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch_internals import foreach_copy_

# Pairs of body and head that gave the same in two passes; value: whether they draw random numbers
_VERIFIED: weakref.WeakKeyDictionary[Callable, weakref.WeakKeyDictionary[Callable, bool]] = weakref.WeakKeyDictionary()


def verified(body: Callable, head: Callable) -> bool:
    """Whether two passes of the pair gave the same."""
    return head in _VERIFIED.get(body, ())


def draws_numbers(body: Callable, head: Callable) -> bool:
    """Whether a verified pair draws random numbers."""
    return _VERIFIED[body][head]


def set_verified(body: Callable, head: Callable, draws: bool) -> None:
    """Remember that two passes gave the same; ``draws``: whether they draw random numbers."""
    _VERIFIED.setdefault(body, weakref.WeakKeyDictionary())[head] = draws


class Snapshot(NamedTuple):
    """What :class:`State` saved."""

    buffers: list[Tensor]
    streams: list


class State:
    """What a pass changes: the buffers of the modules among ``parts``, and the random streams of Python, NumPy, torch.

    Args:
        rewind_device: whether the random stream of a GPU is among them.
    """

    def __init__(self, parts: Iterable[nn.Module | Callable], device: torch.device, rewind_device: bool) -> None:
        modules = [part for part in parts if isinstance(part, nn.Module)]
        self.buffers = list(dict.fromkeys(buffer for module in modules for buffer in module.buffers()))
        self.streams = [(random.getstate, random.setstate), (torch.get_rng_state, torch.set_rng_state)]
        if "numpy" in sys.modules:
            numpy_random = sys.modules["numpy"].random
            self.streams.append((numpy_random.get_state, numpy_random.set_state))
        if device.type == "cuda" and rewind_device:
            self.streams.append(
                (lambda: torch.cuda.get_rng_state(device), lambda state: torch.cuda.set_rng_state(state, device))
            )

    def save(self) -> Snapshot:
        return Snapshot([buffer.detach().clone() for buffer in self.buffers], [get() for get, _ in self.streams])

    def load(self, snapshot: Snapshot) -> None:
        if self.buffers:
            with torch.no_grad():
                foreach_copy_(self.buffers, snapshot.buffers)
        for (_, put), state in zip(self.streams, snapshot.streams, strict=True):
            put(state)

    def drew_numbers(self, before: Snapshot, after: Snapshot) -> bool:
        """Whether random numbers were drawn between two snapshots."""
        return any(not _same(a, b) for a, b in zip(before.streams, after.streams, strict=True))


def _same(a: Any, b: Any) -> bool:
    """Whether two states of a stream are equal: tensors, arrays, numbers, names or tuples of those."""
    if isinstance(a, tuple):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool((a == b).all()) if hasattr(a, "all") else a == b
