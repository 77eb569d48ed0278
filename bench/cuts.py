"""Where to cut a network so that a training step needs least memory.

    python -m sgr_bench.cuts [--networks resnet50 ...] [--batch 32] [--modules 3] [--engine NAME] [--out FILE.json]

The modules of a step run one after another, so its peak is that of the module that needs most. The peak of every
stretch of blocks is measured with two small batches and extended to the batch asked for, in which it is linear.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from typing import Any

import torch
from torch import Tensor, nn

from .live_memory import peak_live_bytes
from .networks import CLASSES, NETWORKS, LocalModule, make_head
from .step import local_step, zero_grad
from .timing import parse, report

SMALL, LARGE = 2, 4


def block_inputs(blocks: list[nn.Module], batch: int, image_size: int) -> list[Tensor]:
    """Input of every block, and the output of the last."""
    inputs = [torch.randn(batch, 3, image_size, image_size)]
    with torch.no_grad():
        for block in blocks:
            inputs.append(block(inputs[-1]))
    return inputs


def peak_of(module: LocalModule, x: Tensor, engine: str | None, last: bool) -> int:
    """``engine`` None: the first module, which takes an ordinary step."""
    y = torch.randint(CLASSES, (len(x),))
    delta_pre = None if engine is None else torch.randn_like(x)

    def run() -> None:
        zero_grad([module])
        local_step(module, x, y, delta_pre, engine or "autograd", last)

    run()
    return peak_live_bytes(run)


def search(name: str, batch: int, count: int, engine: str, image_size: int = 224) -> dict[str, Any]:
    network = NETWORKS[name]
    blocks = network.blocks()
    inputs = {size: block_inputs(blocks, size, image_size) for size in (SMALL, LARGE)}

    @functools.cache
    def peak(first: int, last: int) -> float:
        module = LocalModule(nn.Sequential(*blocks[first:last]), make_head(network, inputs[SMALL][last]))
        measured = [
            peak_of(module, inputs[size][first], engine if first else None, last == len(blocks))
            for size in (SMALL, LARGE)
        ]
        return measured[0] + (measured[1] - measured[0]) / (LARGE - SMALL) * (batch - SMALL)

    best: tuple[float, tuple[int, ...]] = (float("inf"), ())
    for cuts in itertools.combinations(range(1, len(blocks)), count - 1):
        edges = [0, *cuts, len(blocks)]
        worst = 0.0
        for stretch in itertools.pairwise(edges):
            worst = max(worst, peak(*stretch))
            if worst >= best[0]:
                break
        best = min(best, (worst, cuts))
    return {"network": name, "batch": batch, "modules": count, "engine": engine, "cuts": best[1], "peak_bytes": best[0]}


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50", "vit_small", "swin_tiny"])
        parser.add_argument("--batch", type=int, default=32, help="images (default 32)")
        parser.add_argument("--modules", type=int, default=3, help="K (default 3)")
        parser.add_argument("--engine", choices=["directional", "autograd"], default="directional")

    args = parse(__doc__, options)
    rows = []
    for name in args.networks:
        rows.append(search(name, args.batch, args.modules, args.engine))
        print(json.dumps(rows[-1]), flush=True)
    report(args, "python -m sgr_bench.cuts", rows)


if __name__ == "__main__":
    main()
