"""Passes that share random numbers and other constants, and no kinks, whose rules cannot be differentiated twice."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .lists import CONSTANT
from .randomness import DROPOUTS, HIDDEN, SOURCES
from .tape import Gates, Record, Replay

_TREATED = CONSTANT | SOURCES | DROPOUTS | HIDDEN | {Tensor.register_hook}


class _Constants(Gates):
    """Refuses hooks on tensors, and no function."""

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        is_treated = func in _TREATED or not torch.is_grad_enabled()
        return super().call(func, args, kwargs) if is_treated else func(*args, **kwargs)


class RecordConstants(_Constants, Record):
    """The first pass."""


class ReplayConstants(_Constants, Replay):
    """Every other pass."""
