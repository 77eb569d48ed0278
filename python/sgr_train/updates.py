"""What a run does with the gradients of a module once a method has completed them."""

from __future__ import annotations

import torch
from torch import nn

from .networks.network import Network


class Updates:
    """The ``update`` of methods: clip, step and clear; of several batches in a row with the mean of their gradients.

    Args:
        network, optimizers: one optimizer a module.
        batches: in a row.
        clip: largest gradient norm of a module; None: no clipping.

    Attributes:
        modules: that have been updated.
        complete: whether the batch is the last one of its row.
    """

    def __init__(
        self, network: Network, optimizers: list[torch.optim.Optimizer], batches: int, clip: float | None
    ) -> None:
        self.network, self.optimizers, self.batches, self.clip = network, optimizers, batches, clip
        self.modules: set[int] = set()
        self.complete, self._row = True, 0

    def begin(self, last: bool) -> None:
        """Call before each step; ``last``: no other batch follows."""
        self._row = 1 if self.complete else self._row + 1
        self.complete = last or self._row == self.batches

    def __call__(self, k: int) -> None:
        self.modules.add(k)
        if not self.complete:
            return
        gradients = [p.grad for p in self.network[k].parameters() if p.grad is not None]
        if self._row > 1 and gradients:
            torch._foreach_div_(gradients, self._row)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.network[k].parameters(), self.clip)
        self.optimizers[k].step()
        self.optimizers[k].zero_grad()
