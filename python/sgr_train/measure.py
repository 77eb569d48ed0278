"""What is measured after every epoch: accuracy, SGR loss, memory."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

import sgr_kernels as sk

from .data import Batch

PROBE = 512  # the first images of the training split: train accuracy and SGR loss are measured on them


@torch.no_grad()
def accuracy(modules: nn.ModuleList, batches: Iterable[Batch]) -> list[float]:
    """Share of correctly classified images, 0 to 1, for the head of every module; the last one is the network's."""
    modules.eval()
    correct, total = torch.zeros(len(modules), dtype=torch.float64), 0
    for x, labels in batches:
        for k, module in enumerate(modules):
            x = module.body(x)
            correct[k] += (module.head.logits(x).argmax(1) == labels).sum().cpu()
        total += len(labels)
    modules.train()
    return (correct / total).tolist()


def measure_sgr(modules: nn.ModuleList, batches: Iterable[Batch], reduction: str) -> list[float]:
    """SGR loss between modules k-1 and k, for k = 2 ... K, averaged over batches: with or without training on it.

    The quantity that "sgr" trains (batch statistics in BatchNorm, relative floor 0), by first-order gradients only.
    Nothing changes: no ``.grad``, no running statistics.
    """
    sums, count = torch.zeros(len(modules) - 1, dtype=torch.float64), 0
    with _frozen_statistics(modules):
        for x, labels in batches:
            delta_pre = None
            for k, module in enumerate(modules):
                x = x.detach().requires_grad_(k > 0)
                output = module.body(x)
                gradients = torch.autograd.grad(module.head(output, labels), [output, x] if k > 0 else [output])
                if k > 0:
                    sums[k - 1] += sk.sgr_loss(gradients[1], delta_pre, reduction=reduction).cpu()
                x, delta_pre = output, gradients[0]
            count += 1
    return (sums / count).tolist()


@contextlib.contextmanager
def _frozen_statistics(modules: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch, as in training, and leaves its running statistics alone."""
    norms = [m for m in modules.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class PeakMemory:
    """Peak memory in bytes since construction: the CUDA allocator's, or on a CPU the resident set of the process.

    The resident set includes Python and PyTorch themselves (some 500 MB). Where the system cannot reset its peak (not
    Linux), it is that of the whole life of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @property
    def kind(self) -> str:
        return "CUDA allocator peak" if self.device.type == "cuda" else "peak resident set"
