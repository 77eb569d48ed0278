"""How the networks are cut into modules."""

from __future__ import annotations

import math

from torch import nn

from .blocks import mlp, plainnet, resnet32
from .config import RunConfig
from .errors import UsageError
from .heads import conv_head, etf_head


class LocalModule(nn.Module):
    """One gradient-isolated module: ``body`` maps x_{k-1} to x_k, ``head`` gives its local loss."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head


def build(config: RunConfig, image_shape: tuple[int, int, int], num_classes: int) -> nn.ModuleList:
    """The network of ``config`` for images of shape (C, H, W).

    A list of :class:`LocalModule`; under "bp" a single one with the last head.

    Draws the same random numbers for every method, so that methods compared start from the same weights.

    Raises:
        UsageError: the cuts do not fit the blocks, or the head does not fit the width.
    """
    blocks = _blocks(config, image_shape)
    edges = [0, *_cuts(config, len(blocks)), len(blocks)]
    bodies = [nn.Sequential(*blocks[i:j]) for i, j in zip(edges, edges[1:], strict=False)]
    make_head = conv_head if config.head == "conv" else etf_head
    heads = [make_head(body[-1].out_channels, num_classes) for body in bodies]
    if config.method == "bp":
        bodies, heads = [nn.Sequential(*bodies)], heads[-1:]
    return nn.ModuleList(LocalModule(body, head) for body, head in zip(bodies, heads, strict=True))


def _blocks(config: RunConfig, image_shape: tuple[int, int, int]) -> list[nn.Module]:
    if config.model == "mlp":
        return mlp(math.prod(image_shape), config.depth, config.width)
    if config.model == "resnet32":
        return resnet32(image_shape[0])
    norm = "none" if config.bp_free else "batch"
    return plainnet(image_shape[0], config.depth, config.width, (config.norm or norm) == "batch")


def _cuts(config: RunConfig, num_blocks: int) -> list[int]:
    """Indices of the blocks that begin a new module."""
    if config.cuts:
        if config.modules not in (None, len(config.cuts) + 1):
            raise UsageError(f"--cuts {len(config.cuts)} times makes {len(config.cuts) + 1} modules; drop --modules")
        inside = all(0 < cut < num_blocks for cut in config.cuts)
        if not inside or sorted(set(config.cuts)) != list(config.cuts):
            raise UsageError(
                f"--cuts must increase and lie between 1 and {num_blocks - 1} "
                f"({config.model} has {num_blocks} blocks), got {' '.join(map(str, config.cuts))}"
            )
        return list(config.cuts)
    count = num_blocks if config.modules is None else config.modules
    if not 1 <= count <= num_blocks:
        raise UsageError(f"--modules must be 1 to {num_blocks}, the blocks of this {config.model}, got {count}")
    if config.model == "resnet32" and count in (2, 3):
        return [6, 11][3 - count :]
    return [round(k * num_blocks / count) for k in range(1, count)]
