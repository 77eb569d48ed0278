"""A method: layer-wise training on labels of which some are drawn anew."""

from __future__ import annotations

import torch
from sgr_train.methods import register

import sgr_kernels as sk


@register("noisy")
class Noisy:
    """Every module on its own loss, with some labels replaced by random ones.

    Args:
        share: of the labels that are replaced, 0 to 1.
    """

    def __init__(self, *, share: float = 0.1) -> None:
        self.share = share

    def step(self, network, x, y, update=lambda k: None):
        replaced = torch.rand(y.shape, device=y.device) < self.share
        y = torch.where(replaced, torch.randint_like(y, network.num_classes), y)
        losses = []
        for k, module in enumerate(network):
            step = sk.local_step(module.body, module.head, x, y, None, weight=0.0)
            update(k)
            x = step.output
            losses.append(step.loss)
        return losses
