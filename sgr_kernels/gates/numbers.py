"""Passes that share their random numbers alone, for code that is differentiated twice: rules for kinks are not."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .randomness import DROPOUTS, HIDDEN, SOURCES
from .tape import Record, Replay

_TREATED = SOURCES | DROPOUTS | HIDDEN | {Tensor.register_hook}


class RecordNumbers(Record):
    """Refuses hooks on tensors, and no function."""

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call(func, args, kwargs) if func in _TREATED else func(*args, **kwargs)


class ReplayNumbers(Replay):
    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call(func, args, kwargs) if func in _TREATED else func(*args, **kwargs)
