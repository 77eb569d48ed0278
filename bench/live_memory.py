"""Peak of live tensor storage, on any device: what the allocator of a GPU would report, without a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """Adds up the storages that operators make, until they die. Views of what was there before are no new storage."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
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
        weakref.finalize(storage, self._die, key, size)

    def _die(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def peak_live_bytes(run: Callable[[], object]) -> int:
    """Peak bytes of the tensors that ``run`` makes (scratch memory inside of an operator is not seen)."""
    with _Live() as mode:
        run()
    return mode.peak
