"""Running statistics of BatchNorm, where a pass must leave them alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch, as in training, and leaves its running statistics alone.

    It goes on updating them, by nothing: without them it would save other tensors for its backward pass, which
    checkpointing refuses.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    found = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in found:
            norm.momentum, norm.num_batches_tracked = momentum, count
