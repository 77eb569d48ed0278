"""Heads: what turns the output of a module into its local loss. ``head.logits(x)``, ``head(x, labels) -> loss``.

Labels are (B,) int64, or class probabilities (B, K) under mixup. --label-smoothing sets ``head.label_smoothing``.
An entry is a function or class ``(features, num_classes, *, options)``; ``features`` says what it gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..registry import Registry

if TYPE_CHECKING:
    from ..networks.network import Features

REGISTRY = Registry("head", __name__)
register, names = REGISTRY.register, REGISTRY.names


def create(name: str, features: Features, *, num_classes: int, **options: object) -> nn.Module:
    """A new head.

    Raises:
        UsageError: no such entry, or the features or the classes do not fit it.
    """
    if num_classes < 2:
        raise UsageError(f"--head {name} needs data with at least 2 classes, got {num_classes}; change --data")
    return REGISTRY.make(name, features, num_classes, **options)


def require(name: str, features: Features, *kinds: str) -> None:
    """Raise UsageError unless the features are of one of the kinds; see ``Features.kind``."""
    if features.kind not in kinds:
        raise UsageError(
            f"--head {name} needs {' or '.join(kinds)}, and the output of these modules is {features.kind} of shape "
            f"{features.shape}; choose another --head"
        )


class FromModule(nn.Module):
    """A head from any module that computes logits (B, classes): softmax cross entropy on them, in nats."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.label_smoothing = module, 0.0

    def logits(self, x: Tensor) -> Tensor:
        return self.module(x)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(x), labels, label_smoothing=self.label_smoothing)


def __getattr__(name: str):
    return REGISTRY.attribute(name)


REGISTRY.load()
