"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..options import NotNegative
from . import register, require_momentum


@register("sgd")
def sgd(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    *,
    momentum: NotNegative = 0.9,
    nesterov: bool = False,
):
    """Stochastic gradient descent.

    Args:
        momentum: share of the last step that is taken once more.
        nesterov: look ahead along it: Nesterov's momentum.
    """
    require_momentum(momentum, nesterov)
    return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
