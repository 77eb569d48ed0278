"""AdamW (Loshchilov & Hutter 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import nn

from ..options import Positive, Range
from . import register

Decay = Annotated[float, Range(0.0, 0.9999999)]


@register("adamw")
def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    *,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    eps: Positive = 1e-8,
):
    """AdamW, for transformers; its --lr is about 0.001.

    Args:
        beta1, beta2: how much of the running means of gradients and of their squares is kept at a step.
        eps: what is added to the root of the latter.
    """
    return torch.optim.AdamW(parameters, lr, (beta1, beta2), eps, weight_decay)
