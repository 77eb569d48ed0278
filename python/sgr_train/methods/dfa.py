"""Direct feedback alignment (Nokland 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..networks.network import Network
from ..options import Positive
from . import Update, feedback, no_update, register
from .facts import Facts


@register("dfa")
class DFA:
    """Direct feedback alignment: the error of the logits goes to every block by a fixed random matrix.

    The output x_k of block k gets delta x_k = R_k^T (p - y) / B in the place of its gradient, for softmax outputs p,
    one-hot labels y, B samples and a matrix R_k of classes times outputs. The last head gets its true gradient; where
    nothing in it learns, the last block.

    Args:
        scale: of the matrices: random signs times sqrt(2 / values of x_k a sample), times this.
    """

    grad_scale = 1.0
    facts = Facts("yes", "partly", "yes", "1 forward, 1 backward by block", "signs, classes x outputs", "all blocks")

    def __init__(self, *, scale: Positive = 1.0) -> None:
        self.scale = scale

    def prepare(self, network: Network, sample: Tensor) -> None:
        feedback.prepare(network, sample, self.scale)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        outputs = []
        for blocks in feedback.hidden_blocks(network):
            for block in blocks:
                outputs.append(block(x))
                x = outputs[-1].detach()
        logits = feedback.forward_last(network, x)
        target = feedback.targets(network, y, logits.dtype)
        loss = F.cross_entropy(logits, target)
        (self.grad_scale * loss).backward()

        error = (logits.detach().softmax(1) - target) * (self.grad_scale / len(y))
        matrices = (matrix for module in network for matrix in module.aux)
        for output, matrix in zip(outputs, matrices, strict=True):
            feedback.backward(output, matrix(error))
        for k in range(len(network)):
            update(k)
        return [loss.detach()]
