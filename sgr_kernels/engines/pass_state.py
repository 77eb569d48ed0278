"""What a pass over a network changes, buffers and random streams: saved, and put back for another pass."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch_internals import foreach_copy_


class _Snapshot(NamedTuple):
    buffers: list[Tensor]
    streams: list


class PassState:
    """The buffers of the modules among ``parts``, and the global random streams of Python, NumPy and torch.

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

    def save(self) -> _Snapshot:
        return _Snapshot([buffer.detach().clone() for buffer in self.buffers], [get() for get, _ in self.streams])

    def load(self, snapshot: _Snapshot) -> None:
        if self.buffers:
            with torch.no_grad():
                foreach_copy_(self.buffers, snapshot.buffers)
        for (_, put), state in zip(self.streams, snapshot.streams, strict=True):
            put(state)

    def drew_numbers(self, before: _Snapshot, after: _Snapshot) -> bool:
        """Whether random numbers were drawn between two snapshots."""
        return any(not _same(a, b) for a, b in zip(before.streams, after.streams, strict=True))


def _same(a: Any, b: Any) -> bool:
    """Whether two states of a stream are equal: tensors, arrays, numbers, names or tuples of those."""
    if isinstance(a, tuple):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool((a == b).all()) if hasattr(a, "all") else a == b
