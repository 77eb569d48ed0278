"""Wrappers for training on several devices, which reduce gradients in hooks that a local step does not run."""

from collections.abc import Callable

from torch import nn

from .per_callables import PerCallables
from .reach import Reach

_WRAPPERS = {"DistributedDataParallel", "DDP", "FullyShardedDataParallel", "FSDPModule", "ReplicateModule"}
_WITHOUT = PerCallables()  # bodies and heads that were searched


def refuse_wrapped(body: Callable, head: Callable) -> None:
    """Look, once, for wrapped modules behind body and head.

    Raises:
        ValueError: names the wrapper, and the way to reduce gradients.
    """
    if _WITHOUT.get(body, head):
        return
    for module in Reach(body, head).modules:
        if wrapper := _wrapper_of(type(module)):
            raise ValueError(
                f"body and head must not be or contain a {wrapper}, whose hooks do not run in a local step: take plain "
                "modules, and after the step call torch.distributed.all_reduce on every .grad"
            )
    _WITHOUT.put(True, body, head)


def _wrapper_of(kind: type[nn.Module]) -> str | None:
    """By name: torch.distributed.fsdp takes long to import."""
    names = (each.__name__ for each in kind.__mro__ if each.__module__.startswith("torch."))
    return next((name for name in names if name in _WRAPPERS), None)
