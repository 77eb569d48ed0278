"""Direct random target projection (Frenkel et al. 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..networks.network import Network
from ..options import Positive
from . import Update, feedback, no_update, register
from .facts import Facts


@register("drtp")
class DRTP:
    """Direct random target projection: the labels go to every block by a fixed random matrix.

    The output x_k of block k gets delta x_k = R_k^T y in the place of its gradient, for one-hot labels y and a matrix
    R_k of classes times outputs. The last head gets its true gradient; where nothing in it learns, the last block. A
    module may be updated before those after it run.

    Args:
        scale: of the matrices: random signs times sqrt(2 / values of x_k a sample), times this. Labels are summed over
            samples where losses are averaged: the inverse of the batch size brings both to one size.
    """

    grad_scale = 1.0
    facts = Facts("yes", "yes", "yes", "1 forward, 1 backward by block", "signs, classes x outputs", "one block")

    def __init__(self, *, scale: Positive = 0.02) -> None:
        self.scale = scale

    def prepare(self, network: Network, sample: Tensor) -> None:
        feedback.prepare(network, sample, self.scale)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        last = len(network) - 1
        target = feedback.targets(network, y, x.dtype)
        for k, blocks in enumerate(feedback.hidden_blocks(network)):
            for block, matrix in zip(blocks, network[k].aux, strict=True):
                output = block(x)
                feedback.backward(output, matrix(self.grad_scale * target))
                x = output.detach()
            if k < last:
                update(k)
        loss = F.cross_entropy(feedback.forward_last(network, x), target)
        (self.grad_scale * loss).backward()
        update(last)
        return [loss.detach()]
