"""What a pass changes besides its results, kept and put back; and which pairs of body and head need no more checks."""

import weakref
from collections.abc import Callable, Iterable

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


class State:
    """What a pass changes: the buffers of the modules among ``parts``."""

    def __init__(self, parts: Iterable[nn.Module | Callable]) -> None:
        modules = [part for part in parts if isinstance(part, nn.Module)]
        self.buffers = list(dict.fromkeys(buffer for module in modules for buffer in module.buffers()))

    def save(self) -> list[Tensor]:
        return [buffer.detach().clone() for buffer in self.buffers]

    def load(self, snapshot: list[Tensor]) -> None:
        if self.buffers:
            with torch.no_grad():
                foreach_copy_(self.buffers, snapshot)
