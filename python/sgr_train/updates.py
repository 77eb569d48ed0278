"""What a run does with the gradients of a module once a method has completed them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .loss_scale import LossScale
from .networks.network import Network


class Updates:
    """The ``update`` of methods: clip, step and clear; of several batches in a row with the mean of their gradients.

    Args:
        network, optimizers: one optimizer a module.
        batches: in a row.
        clip: largest gradient norm of a module; None: no clipping.
        scale: of the gradients, which a module whose gradients overflow is not stepped with; None: 1.

    Attributes:
        modules: that have been updated.
        complete: whether the batch is the last one of its row.
    """

    def __init__(
        self,
        network: Network,
        optimizers: list[torch.optim.Optimizer],
        batches: int,
        clip: float | None,
        scale: LossScale | None = None,
    ) -> None:
        self.network, self.optimizers, self.batches = network, optimizers, batches
        self.clip, self.scale = clip, scale
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
        if self.scale is None or self.scale.unscale(gradients, k):
            self._step(k, gradients)
        self.optimizers[k].zero_grad()

    def end(self) -> None:
        """Call after each step."""
        if self.complete and self.scale is not None:
            self.scale.update()

    def _step(self, k: int, gradients: list[Tensor]) -> None:
        if self._row > 1 and gradients:
            torch._foreach_div_(gradients, self._row)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.network[k].parameters(), self.clip)
        self.optimizers[k].step()
