"""Where to cut a network so that a training step needs least memory.

The modules of a step run one after another, so its peak is that of the module that needs most. Every stretch of blocks
that can be part of an optimum is measured on fake tensors, which have sizes and no numbers: no GPU and no such memory
is needed. No shape of the peak is assumed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from sgr_train.live_memory import peak_live_bytes_below
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sgr_kernels.gpu_path import cpu_as_gpu

from .methods import Inputs, module_step, zero_grad
from .networks import NETWORKS, LocalModule, Network

SGR_METHODS = ["directional", "Algorithm 1"]
IMAGENET = [name for name, network in NETWORKS.items() if network.classes == 1000]


class Stretches:
    """Peaks of the local steps of all stretches of blocks of one network.

    Args:
        as_gpu: take the path of tensors on a GPU, under bfloat16 autocast, with images in channels-last format.
    """

    def __init__(self, network: Network, batch: int, as_gpu: bool = False) -> None:
        self.network, self.batch, self.as_gpu, self.fake = network, batch, as_gpu, FakeTensorMode()
        self._known: dict[tuple[int, int, str], float] = {}
        self._at_least: dict[tuple[int, int, str], float] = {}
        with self.measuring():
            images, self.labels = self.inputs()
            self.blocks = network.make_blocks(images)
            self.features = _features(self.blocks, images)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.fake)
            if self.as_gpu:
                stack.enter_context(cpu_as_gpu())
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            yield

    def inputs(self) -> tuple[Tensor, Tensor]:
        images, labels = self.network.inputs(self.batch)
        return images.contiguous(memory_format=torch.channels_last) if self.as_gpu else images, labels

    def peak(self, first: int, last: int, method: str, bound: float = math.inf) -> float:
        """Bytes at the peak of the step of the module of blocks ``first`` to ``last - 1``, infinity from ``bound`` on.

        With what the module before it handed over: its output and, under SGR, the gradient for that.
        """
        stretch = first, last, method
        known, at_least = self._known.get(stretch), self._at_least.get(stretch, 0.0)
        if known is None and bound > at_least:
            known = self._measure(*stretch, bound)
            if known < math.inf:
                self._known[stretch] = known
            else:
                self._at_least[stretch] = bound
        return known if known is not None and known < bound else math.inf

    def _measure(self, first: int, last: int, method: str, bound: float) -> float:
        with self.measuring():
            body = nn.Sequential(*self.blocks[first:last])
            module = LocalModule(body, self.network.make_head(self.features[last]))
            images = self.features[0]

            def run() -> None:
                x = torch.empty_like(self.features[first]) if first else images
                delta_pre = torch.empty_like(x) if first and method != "plain local" else None
                module_step(module, Inputs(x, self.labels, delta_pre), method, last < len(self.blocks))

            zero_grad([module])
            return peak_live_bytes_below(bound, run)


def _features(blocks: list[nn.Module], images: Tensor) -> list[Tensor]:
    """Input of every block, and the output of the last."""
    features = [images]
    with torch.no_grad():
        for block in blocks:
            features.append(block(features[-1]))
    return features


def search(stretches: Stretches, count: int, method: str) -> tuple[tuple[int, ...], int]:
    """The best ``count - 1`` cuts, as the blocks that begin a new module, and the peak of a step with them."""
    total = len(stretches.blocks)
    start = stretches.network.cut(count, total)
    best = (_worst(stretches, start, method, math.inf), start)
    for cuts in itertools.combinations(range(1, total), count - 1):
        best = min(best, (_worst(stretches, cuts, method, best[0]), cuts))
    return best[1], int(best[0])


def _worst(stretches: Stretches, cuts: tuple[int, ...], method: str, bound: float) -> float:
    """Peak of the step, or infinity as soon as one module needs ``bound`` or more: the cheap ones to know go first."""
    edges = list(itertools.pairwise([0, *cuts, len(stretches.blocks)]))
    worst = 0.0
    for first, last in (edges[0], edges[-1], *edges[1:-1]):
        worst = max(worst, stretches.peak(first, last, method, bound))
        if worst >= bound:
            return math.inf
    return worst


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=IMAGENET)
    parser.add_argument("--batch", type=int, default=256, help="images (default 256)")
    parser.add_argument("--modules", type=int, nargs="+", default=[2, 3], help="K (default 2 3)")
    parser.add_argument("--methods", nargs="+", choices=SGR_METHODS, default=SGR_METHODS)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    networks = ["resnet32"] if args.quick else args.networks
    for name in networks:
        stretches = Stretches(NETWORKS[name], args.batch)
        for count, method in itertools.product(args.modules, args.methods):
            cuts, peak = search(stretches, count, method)
            selection = f"--networks {name} --batch {args.batch} --modules {count} --methods '{method}'"
            yield (
                selection,
                {
                    "network": name,
                    "batch": args.batch,
                    "count": count,
                    "method": method,
                    "cuts": cuts,
                    "peak_bytes": peak,
                },
            )


def line(row: dict[str, Any]) -> str:
    cuts = " ".join(map(str, row["cuts"]))
    return f"{row['network']}, K={row['count']}, {row['method']}: cuts {cuts}, {row['peak_bytes'] / 2**30:.2f} GiB"
