"""What is measured after every epoch: accuracy, SGR loss, memory."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import sgr_kernels as sk

from .config import RunConfig, Settings
from .data.splits import Batch
from .errors import Diverged
from .networks.network import Network
from .networks.statistics import frozen_statistics

PROBE = 512  # the first images of the training split: train accuracy and SGR loss are measured on them


def accuracy(network: Network, batches: Iterable[Batch]) -> list[float]:
    """Share of correctly classified images, 0 to 1, for the head of every module; the last one is the network's.

    Raises:
        Diverged: as :func:`count_correct`.
    """
    correct, images = count_correct(network, batches)
    return (correct.sum(1) / images.sum()).tolist()


@torch.no_grad()
def count_correct(network: Network, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Correctly classified images (K, classes) for the head of every module, and all images (classes,), float64.

    Both are by the class of their label, and on the CPU. The network is in training mode afterwards.

    Raises:
        Diverged: logits are not finite, so that nothing is classified.
    """
    network.eval()
    zeros = torch.zeros(len(network) + 1, network.num_classes, dtype=torch.float64, device=network.mean.device)
    *correct, images = zeros  # counts: exact, in whatever order a device adds them
    for x, labels in batches:
        for k, module in enumerate(network):
            x = module.body(x)
            logits = module.head.logits(x)
            if not logits.isfinite().all():
                raise Diverged(f"the logits of module {k + 1} are not finite")
            correct[k].index_add_(0, labels, (logits.argmax(1) == labels).double())
        images.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
    network.train()
    return zeros[:-1].cpu(), images.cpu()


def shares(correct: Tensor, images: Tensor) -> list[float | None]:
    """Accuracy by class, 0 to 1; None of a class without images."""
    return [hits / count if count else None for hits, count in zip(correct.tolist(), images.tolist(), strict=True)]


def measure_sgr(network: Network, batches: Iterable[Batch], config: RunConfig) -> list[float]:
    """SGR loss between modules k-1 and k, for k = 2 ... K, averaged over images: with or without training on it.

    The quantity that "sgr" trains (batch statistics in BatchNorm, relative floor 0), by first-order gradients only, and
    without a graph where training is without one. Nothing changes: no ``.grad``, no running statistics.

    Raises:
        Diverged: it is not finite.
    """
    sums, total = torch.zeros(len(network) - 1, dtype=torch.float64), 0
    gradients = _closed_form_gradients if config.bp_free else _gradients
    reduction = reduction_of(config)
    with frozen_statistics(network):
        for x, labels in batches:
            delta_pre = None
            for k, module in enumerate(network):
                x, delta_out, sgr = gradients(module, x, labels, delta_pre, reduction)
                if sgr is not None:
                    sums[k - 1] += sgr.cpu() * len(labels)
                delta_pre = delta_out
            total += len(labels)
    for k, value in enumerate(sums, 2):
        if not value.isfinite():
            raise Diverged(f"the SGR loss of module {k} is {value.item()}")
    return (sums / total).tolist()


def _gradients(
    module: nn.Module, x: Tensor, labels: Tensor, delta_pre: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, its gradient and the SGR loss, of one module."""
    x = x.detach().requires_grad_(delta_pre is not None)
    output = module.body(x)
    loss = module.head(output, labels)
    if delta_pre is None:
        return output, *torch.autograd.grad(loss, [output]), None
    delta_out, delta_now = torch.autograd.grad(loss, [output, x])
    with torch.no_grad():
        return output, delta_out, sk.sgr_loss(delta_now, delta_pre, reduction=reduction)


def _closed_form_gradients(
    module: nn.Module, x: Tensor, labels: Tensor, delta_pre: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same from a step whose parameter gradients are thrown away."""
    options = {"engine": "fused", "curvature": "none", "reduction": reduction}
    step = sk.local_step(module.body, module.head, x, labels, delta_pre, weight=0.0, **options)
    module.zero_grad()
    return step.output, step.delta_out, step.sgr


def reduction_of(config: Settings) -> str:
    """That of the methods which reconcile gradients, if there is one: what is compared is measured alike."""
    found = (options["reduction"] for options in config.options["method"].values() if "reduction" in options)
    return next(found, "batchmean")


class PeakMemory:
    """Peak memory in bytes since construction: the CUDA allocator's, or on a CPU the resident set of the process.

    The resident set includes Python and PyTorch themselves (some 500 MB). Where the system cannot reset its peak (not
    Linux), it is that of the whole life of the process; on Windows it is not measured (None).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return None
        if sys.platform == "linux":  # getrusage also counts what the process that started this one held, and never less
            return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @property
    def kind(self) -> str:
        return "CUDA allocator peak" if self.device.type == "cuda" else "peak resident set"
