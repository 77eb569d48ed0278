"""A network for local learning: gradient-isolated modules, each with a head of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .statistics import frozen_statistics


class Features(NamedTuple):
    """What a head must know of the output of the body before it.

    Attributes:
        shape: without the batch.
        tokens: positions come before channels, (..., C); else channels come first, (C, ...).
    """

    shape: tuple[int, ...]
    tokens: bool

    @property
    def channels(self) -> int:
        return self.shape[-1 if self.tokens else 0]

    @property
    def kind(self) -> str:
        """ "vector" (C), "maps" (C, H, W) or "tokens" (..., C)."""
        if len(self.shape) == 1:
            return "vector"
        return "tokens" if self.tokens else "maps"


class LocalModule(nn.Module):
    """One gradient-isolated module.

    Attributes:
        body: x_{k-1} -> x_k, an nn.Sequential of blocks.
        head: (x_k, labels) -> its local loss; ``head.logits(x_k)`` are its logits.
        features: of x_k, for methods that put more on it than the head; None where nobody said.
        aux: what the method owns (see :mod:`sgr_train.methods`); None of most. It is not part of an export.
    """

    def __init__(self, body: nn.Module, head: nn.Module, features: Features | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.features = features
        self.aux: nn.Module | None = None


class Network(nn.ModuleList):
    """Modules that follow each other; the last head is the network's.

    Attributes:
        mean, std: (1, C, 1, 1), by which pixels from 0 to 1 become the input: ``(pixels - mean) / std``. 0 and 1 unless
            set.
        image_shape: (C, H, W) of the input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modules: Sequence[LocalModule], image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(modules)
        self.image_shape, self.num_classes = image_shape, num_classes
        self.register_buffer("mean", torch.zeros(1, image_shape[0], 1, 1))
        self.register_buffer("std", torch.ones(1, image_shape[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of the last head for inputs (B, C, H, W)."""
        for module in self:
            x = module.body(x)
        return self[-1].head.logits(x)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The blocks, counted from 0, that begin the second module and those after."""
        return tuple(itertools.accumulate(len(module.body) for module in list(self)[:-1]))

    def blocks(self) -> Iterator[nn.Module]:
        """All blocks, from the first module to the last."""
        return (block for module in self for block in module.body)

    def whole(self) -> Network:
        """The same blocks as one module with the last head."""
        body, head = nn.Sequential(*self.blocks()), self[-1].head
        network = Network([LocalModule(body, head, self[-1].features)], self.image_shape, self.num_classes)
        network.mean, network.std = self.mean, self.std
        return network

    def checkpoint_blocks(self) -> None:
        """From now on keep the input of every block alone, and compute the rest again in the backward pass."""
        for module in self:
            module.body = nn.Sequential(*(Checkpointed(block) for block in module.body))

    def export(self) -> nn.Module:
        """A copy made of torch's layers alone, pixels from 0 to 1 -> logits; see :mod:`sgr_train.networks.export`."""
        from .export import export

        return export(self)


class Checkpointed(nn.Module):
    """A block whose intermediate results are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.block(x)
        # Statistics move in the first pass alone.
        return checkpoint(self.block, x, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(self.block)
