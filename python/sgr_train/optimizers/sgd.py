"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..options import NotNegative
from . import register


@register("sgd")
def sgd(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, *, momentum: NotNegative = 0.9):
    """Stochastic gradient descent.

    Args:
        momentum: share of the last step that is taken once more.
    """
    return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
