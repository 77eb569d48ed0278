"""Greedy layer-wise training (Belilovsky et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks.network import Network
from . import Update, no_update, register
from .facts import BP_FREE, Facts
from .sgr import Engine, Layerwise


@register("greedy")
class Greedy(Layerwise):
    """One module after the other, each for all epochs, on the outputs of those before it, which are frozen.

    It takes as many times the epochs as there are modules, each with a schedule of its own. Outside of a driver that
    calls :meth:`begin_epoch`, set :attr:`active`, the module that trains, from 0.

    Args:
        engine: how gradients are computed; see sgr_kernels.local_step.
    """

    facts = Facts(BP_FREE, "yes", BP_FREE, "1 forward to a module, its backward", "local heads", "one module")

    def __init__(self, *, engine: Engine = "auto") -> None:
        super().__init__(engine=engine)
        self.active = 0

    def phases(self, network: Network) -> int:
        return len(network)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.active = epoch // epochs

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        with torch.no_grad():
            for module in list(network)[: self.active]:
                x = module.eval().body(x)
        step = self.module_step(network[self.active], x, y, None, last=True)
        update(self.active)
        return [step.loss]
