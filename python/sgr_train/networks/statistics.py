"""Running statistics of BatchNorm, where a pass must leave them alone."""

from __future__ import annotations

from torch import nn


class frozen_statistics:
    """BatchNorm normalises by the batch, as in training, and leaves its running statistics alone.

    It goes on updating them, by nothing: without them it would save other tensors for its backward pass, which
    checkpointing refuses. Can be entered again: of two backward passes, each computes a checkpointed region again.
    """

    def __init__(self, network: nn.Module) -> None:
        self.norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self) -> None:
        self.found = [(norm, norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error) -> None:
        for norm, momentum, count in self.found:
            norm.momentum, norm.num_batches_tracked = momentum, count
