"""Fixed random matrices, by which errors or labels reach layers without the weights of those after them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.network import Network
from ..networks.statistics import frozen_statistics


class Matrices(nn.Module):
    """Tensors that nothing changes. As buffers they are in checkpoints and are no parameters."""

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        super().__init__()
        for index, matrix in enumerate(matrices):
            self.register_buffer(f"matrix{index}", matrix)

    def __iter__(self) -> Iterator[Tensor]:
        return self.buffers()


def uniform(like: Tensor, shape: tuple[int, ...], fan_in: int) -> Tensor:
    """He et al.'s uniform distribution, of variance 2 / fan_in, with dtype and device of ``like``."""
    return like.new_empty(shape).uniform_(-1, 1) * math.sqrt(6 / fan_in)


def hidden_blocks(network: Network) -> list[list[nn.Module]]:
    """By module the blocks whose outputs get feedback: all but the last layer.

    The last layer is the last head; where nothing in that head learns it is the last block, with the head behind it.
    """
    blocks = [list(module.body) for module in network]
    if not learns(network[-1].head):
        blocks[-1].pop()
    return blocks


def learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@torch.no_grad()
def prepare(network: Network, sample: Tensor, scale: float) -> None:
    """Give every module a matrix (classes, ...) for the output (B, ...) of each of its hidden blocks.

    They are of He et al.'s distribution for as many inputs as the output has values a sample, times ``scale``.
    """
    x = sample
    for module, blocks in zip(network, hidden_blocks(network), strict=True):
        matrices = []
        with frozen_statistics(module):
            for block in blocks:
                x = block(x)
                matrices.append(scale * uniform(sample, (network.num_classes, *x.shape[1:]), x[0].numel()))
        module.aux = Matrices(matrices)


def forward_last(network: Network, x: Tensor) -> Tensor:
    """Logits, with their graph, for the input of the last layer; see :func:`hidden_blocks`."""
    head = network[-1].head
    return head.logits(x if learns(head) else network[-1].body[-1](x))


def targets(network: Network, y: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, classes): labels as the last loss compares probabilities with them: one-hot, if it smooths none."""
    classes = network.num_classes
    target = y if y.is_floating_point() else F.one_hot(y, classes)
    smoothing = getattr(network[-1].head, "label_smoothing", 0.0)
    return target.to(dtype) * (1 - smoothing) + smoothing / classes


def backward(output: Tensor, delta: Tensor) -> None:
    """Add the gradients of the block that gave ``output``; a block without parameters has none."""
    if output.requires_grad:
        torch.autograd.backward(output, delta)
