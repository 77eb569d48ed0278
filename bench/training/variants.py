"""Another reading of the paper, as a plug-in: ``sgr-train run --plugin bench/training/variants.py --method sgr_after``.

Algorithm 1 takes delta_pre from the pass that module k-1 is updated by. The text stores it "after the update" of that
module, and Eq. 2 takes the loss of a module at the new weights of the one before it. Read so, module k gets the new
output, and delta_pre is the gradient for this output: the SGR loss compares two gradients for one tensor. With the old
output there is nothing else to compare: a gradient for it changes with the head alone, and a fixed head is not updated.
"""

from __future__ import annotations

import torch
from sgr_train.methods import Update, no_update, register
from sgr_train.methods.sgr import RHO, SGR, Engine, Reduction
from sgr_train.networks.network import LocalModule, Network
from sgr_train.networks.statistics import frozen_statistics
from sgr_train.options import NotNegative
from torch import Tensor

from sgr_kernels.engines.common import unscale
from sgr_kernels.engines.local_loss import local_loss


@register("sgr_after")
class SGRAfter(SGR):
    """SGR towards what the updated module before gives, and its gradient there; with a weight of 0 it is reforward.

    Args:
        rho, weight, reduction, normalize, engine: as of sgr.
    """

    facts = SGR.facts._replace(passes="2 forward, 1 backward and a derivative by module, 2 backward by head")

    def __init__(
        self,
        *,
        rho: NotNegative = RHO,
        weight: NotNegative | None = None,
        reduction: Reduction = "batchmean",
        normalize: bool = True,
        engine: Engine = "auto",
    ) -> None:
        super().__init__(rho=rho, weight=weight, reduction=reduction, normalize=normalize, engine=engine)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        losses, delta_pre = [], None
        for k, module in enumerate(network):
            # Nobody needs the gradient for the output of before the update.
            losses.append(self.module_step(module, x, y, delta_pre, last=True).loss)
            update(k)
            if k + 1 < len(network):
                x, delta_pre = self._again(module, x, y)
        return losses

    @torch.no_grad()
    def _again(self, module: LocalModule, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The output of a module and the gradient of its loss for it. No graph of the body is built."""
        with frozen_statistics(module):  # statistics move once a step
            output = module.body(x)
            delta, _ = local_loss(module.head, output, y, self.grad_scale, second_order=False).gradient()
        return output, unscale(delta, self.grad_scale)
