"""Back-propagation."""

from __future__ import annotations

from torch import Tensor

from ..networks.network import Network
from . import Update, no_update, register
from .facts import Facts


@register("bp")
class BP:
    """Back-propagation end to end, on the loss of the last head."""

    whole = True
    grad_scale = 1.0
    facts = Facts("no", "no", "no", "1 forward, 1 backward", "none", "all blocks")

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        for module in network:
            x = module.body(x)
        loss = network[-1].head(x, y)
        (self.grad_scale * loss).backward()
        for k in range(len(network)):
            update(k)
        return [loss.detach()]
