"""Fixed random matrices, by which errors or labels reach layers without the weights of those after them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.network import Network
from ..networks.statistics import frozen_statistics

TILE = 2**20  # elements: what a cache holds


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


class RandomSigns(nn.Module):
    """A fixed random matrix R (classes, *shape), for the output of a block: all its elements have one size.

    An element is a bit, since those of a network for ImageNet are billions.

    Args:
        like: has the device.
        scale: of the elements, in units of sqrt(2 / values of the output a sample), their size after He et al.
    """

    bits: Tensor

    def __init__(self, like: Tensor, classes: int, shape: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.shape, self.values = shape, math.prod(shape)
        self.scale = scale * math.sqrt(2 / self.values)
        size = (classes, math.ceil(self.values / 8))
        self.register_buffer("bits", torch.randint(256, size, dtype=torch.uint8, device=like.device))

    def forward(self, signal: Tensor) -> Tensor:
        """(B, classes) -> (B, *shape): the signal times the matrix, of which no more than a tile is made at once."""
        tiles = self.bits.split(math.ceil(TILE / (8 * len(self.bits))), dim=1)
        products = torch.cat([signal @ signs(tile, signal) for tile in tiles], 1)[:, : self.values]
        return self.scale * products.reshape(-1, *self.shape)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """uint8 (rows, n) -> 1 or -1 (rows, 8 n), with the dtype of ``like``."""
    of_byte = torch.arange(256, device=bits.device)[:, None] >> torch.arange(8, device=bits.device) & 1
    return F.embedding(bits.int(), of_byte.to(like.dtype) * 2 - 1).flatten(1)


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
    """Give every module a :class:`RandomSigns` for the output of each of its hidden blocks."""
    x = sample
    for module, blocks in zip(network, hidden_blocks(network), strict=True):
        matrices = []
        with frozen_statistics(module):
            for block in blocks:
                x = block(x)
                matrices.append(RandomSigns(sample, network.num_classes, x.shape[1:], scale))
        module.aux = nn.ModuleList(matrices)


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
