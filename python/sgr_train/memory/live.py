"""Peak of live tensor storage, on any device: what the allocator of a GPU would report, without a GPU."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _TooMuch(Exception):
    """More than anybody wants to know."""


class _Live(TorchDispatchMode):
    """Adds up the storages that operators make, until they die. Views of what was there before are no new storage."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.live, self.peak, self.limit = 0, 0, limit
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if storage._cdata not in self.known and storage._cdata not in given:
                self._see(storage._cdata, storage)
        return result

    def _see(self, key: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        if self.peak >= self.limit:
            raise _TooMuch
        weakref.finalize(storage, self._die, key, size)

    def _die(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def peak_live_bytes(run: Callable[[], object]) -> int:
    """Peak bytes of the tensors that ``run`` makes (scratch memory inside of an operator is not seen)."""
    return int(peak_live_bytes_below(math.inf, run))


def peak_live_bytes_below(limit: float, run: Callable[[], object]) -> float:
    """The same, or infinity where it is not below the limit; ``run`` is given up as soon as that is seen."""
    try:
        with _Live(limit) as mode:
            run()
    except _TooMuch:
        return math.inf
    return mode.peak


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Of live tensors on the CPU; on a GPU of what its allocator hands out while ``run`` runs."""
    if device != "cuda":
        return peak_live_bytes(run)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
