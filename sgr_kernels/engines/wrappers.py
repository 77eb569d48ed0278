"""Wrappers for training on several devices, which reduce gradients in hooks that a local step does not run."""

import functools
from collections.abc import Iterable

from torch import nn

_WRAPPERS = ("DistributedDataParallel", "DDP", "FullyShardedDataParallel", "FSDPModule", "ReplicateModule")


def refuse_wrapped(modules: Iterable[nn.Module]) -> None:
    """Raises ValueError where one of them is a wrapper; names it, and the way to reduce gradients."""
    for module in modules:
        if wrapper := _wrapper_of(type(module)):
            raise ValueError(
                f"body and head must not be or contain a {wrapper}, whose hooks do not run in a local step: take plain "
                "modules, and after the step call torch.distributed.all_reduce on every .grad"
            )


@functools.lru_cache(maxsize=1024)
def _wrapper_of(kind: type[nn.Module]) -> str | None:
    """By name: torch.distributed.fsdp takes long to import."""
    names = (each.__name__ for each in kind.__mro__ if each.__module__.startswith("torch."))
    return next((name for name in names if name in _WRAPPERS), None)
