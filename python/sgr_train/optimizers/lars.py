"""LARS (You et al. 2017), that of timm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..errors import needed
from ..options import NotNegative, Positive
from . import register, require_momentum


@register("lars")
def lars(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    *,
    momentum: NotNegative = 0.9,
    nesterov: bool = False,
    trust_coeff: Positive = 0.001,
    eps: Positive = 1e-8,
    trust_clip: bool = False,
) -> torch.optim.Optimizer:
    """LARS, for large batches: every weight with a step of a length relative to its own. Needs the package timm.

    Biases and parameters of norms are trained by plain SGD without weight decay.

    Args:
        momentum: share of the last step that is taken once more.
        nesterov: look ahead along it: Nesterov's momentum.
        trust_coeff: the length of a step over that of its weight, before the learning rate.
        eps: what is added to the length of the gradient.
        trust_clip: never take a longer step than SGD does (LARC).
    """
    with needed("--optimizer lars", "timm"):
        from timm.optim import Lars
    require_momentum(momentum, nesterov)
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in parameters:
        (weights if parameter.ndim > 1 else others).append(parameter)
    # timm takes a weight decay of 0 for the sign that a group is not to be adapted, unless told otherwise.
    groups = [{"params": weights, "always_adapt": True}, {"params": others, "weight_decay": 0.0}]
    options = {"momentum": momentum, "nesterov": nesterov, "trust_coeff": trust_coeff, "eps": eps}
    return Lars(groups, lr=lr, weight_decay=weight_decay, trust_clip=trust_clip, **options)
