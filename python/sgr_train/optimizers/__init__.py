"""Optimizers of a module: functions ``(parameters, lr, weight_decay, *, options) -> torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable

from ..registry import Registry

REGISTRY = Registry("optimizer", __name__)
register, names = REGISTRY.register, REGISTRY.names


def __getattr__(name: str) -> Callable:
    return REGISTRY.attribute(name)


REGISTRY.load()
