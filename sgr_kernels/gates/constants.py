"""Passes that share random numbers and other constants, and no kinks, whose rules cannot be differentiated twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .randomness import DROPOUTS, HIDDEN, SOURCES
from .tape import CONSTANT, Record, Replay

_TREATED = CONSTANT | SOURCES | DROPOUTS | HIDDEN | {Tensor.register_hook}


class RecordConstants(Record):
    """Refuses hooks on tensors, and no function."""

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call(func, args, kwargs) if _is_treated(func) else func(*args, **kwargs)


class ReplayConstants(Replay):
    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call(func, args, kwargs) if _is_treated(func) else func(*args, **kwargs)


def _is_treated(func: Callable) -> bool:
    return func in _TREATED or not torch.is_grad_enabled()
