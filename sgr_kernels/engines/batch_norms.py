"""Batch norms: what a pass does to their running statistics need not be done again in every other pass.

One that normalises by the batch writes its statistics and reads them nowhere. Where nothing else uses them either, they
are left alone in later passes, and there are three buffers a layer less to keep and to put back.
"""

import inspect
import weakref
from collections import defaultdict
from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..torch_internals import autocast_is_on, storage_keys, tree_leaves

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FORWARD = nn.BatchNorm2d.forward.__code__  # of all of them


def only_writes_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm that does. Those of a cumulative average read their counter."""
    if type(module) not in _KINDS or "forward" in vars(module):
        return False
    return module.training and module.track_running_stats and module.momentum is not None


class Users:
    """Who uses the running statistics during a pass, of whose calls :meth:`see` is told."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.before = {norm: [*norm.buffers(recurse=False)] for norm in modules if only_writes_statistics(norm)}
        self.owners = defaultdict(list)
        for norm, buffers in self.before.items():
            for key in storage_keys(buffers):
                self.owners[key].append(norm)
        self.shared: set[nn.Module] = set()

    def see(self, args: tuple, kwargs: dict, result: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for owner in self._owners_of(tensors) if self.owners else ():
            if not (only_writes_statistics(owner) and _is_in_forward_of(owner)):
                self.shared.add(owner)

    def none_but_themselves(self) -> list[weakref.ref[nn.Module]]:
        """After the pass: the batch norms whose statistics nothing else has used or replaced."""
        kept = [norm for norm, buffers in self.before.items() if _are_the_same(norm.buffers(recurse=False), buffers)]
        return [weakref.ref(norm) for norm in kept if norm not in self.shared]

    def _owners_of(self, tensors: list[Tensor]) -> Iterable[nn.Module]:
        try:
            keys = storage_keys(tensors)
        except (RuntimeError, NotImplementedError):  # of a transform
            keys = [None]
        if None in keys:  # what hides its memory may be around any of them
            return self.before
        return [owner for key in keys if key in self.owners for owner in self.owners[key]]


def _are_the_same(some: Iterable[Tensor], others: list[Tensor]) -> bool:
    return [*map(id, some)] == [*map(id, others)]


def _is_in_forward_of(norm: nn.Module) -> bool:
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _FORWARD and frame.f_locals["self"] is norm:
            return True
        frame = frame.f_back
    return False


class by_batch_alone:
    """Inside, the batch norms normalise by the batch and do nothing else."""

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        self.norms = norms

    def __enter__(self) -> None:
        for norm in self.norms:
            vars(norm)["forward"] = _ByBatch(norm)  # not by setattr, which takes ten times as long

    def __exit__(self, *error) -> None:
        for norm in self.norms:
            vars(norm).pop("forward", None)  # another thread may have been here too


class _ByBatch:
    """In the place of the ``forward`` of a batch norm."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, input: Tensor) -> Tensor:
        weight, bias, eps = self.norm.weight, self.norm.bias, self.norm.eps
        if autocast_is_on():  # under which modes may have a batch norm of their own in the place of that of a layer
            return F.batch_norm(input, None, None, weight, bias, True, 0.0, eps)
        # The same without its checks, which the first pass has made. A mode sees this call sooner: functions in Python
        # take as long to be seen as a small batch norm.
        return torch.batch_norm(input, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)

    def __reduce__(self) -> tuple:
        """A copy of the norm that another thread makes meanwhile has the ``forward`` of its class."""
        return _forward_of, (self.norm,)


def _forward_of(norm: nn.Module) -> MethodType:
    return MethodType(type(norm).forward, norm)
