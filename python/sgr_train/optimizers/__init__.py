"""Optimizers of a module: functions ``(parameters, lr, weight_decay, *, options) -> torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import UsageError
from ..registry import Registry

REGISTRY = Registry("optimizer", __name__)
register, names = REGISTRY.register, REGISTRY.names


def require_momentum(momentum: float, nesterov: bool) -> None:
    """Raises UsageError for Nesterov's momentum of 0, which torch and timm refuse in words of their own."""
    if nesterov and momentum == 0:
        raise UsageError("--momentum must be above 0 with --nesterov, got 0.0")


def __getattr__(name: str) -> Callable:
    return REGISTRY.attribute(name)


REGISTRY.load()
