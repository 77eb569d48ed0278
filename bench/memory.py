"""Peak memory of one training step at full size, against back-propagation and the paper's Table 5.

On the CPU every step runs on fake tensors, which have sizes and no numbers: batch 256 of ImageNet images needs no GPU
and little time. What counts is the peak of the tensors that a step makes, gradients included, parameters and scratch
memory inside of operators not. On a GPU the step runs, and the allocator's peak is taken over what was there before.
With --as-gpu fake tensors take the path of a GPU, under autocast; dropout then counts two bytes an element, not one,
in what is not ours.
Before that, every method's gradient is compared with that of Algorithm 1 on small images.

Networks are cut where the step of the method needs least (see the part ``cuts``), as the paper does, or by --cuts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from sgr_train.live_memory import peak_bytes

from .cuts import IMAGENET, SGR_METHODS, Stretches, search
from .methods import METHODS, require_agreement
from .networks import NETWORKS, Network, modules

# Table 5: memory of SGR over that of global BP, by network and K
PAPER = {
    ("resnet50", 2): 17.91 / 21.49,
    ("resnet50", 3): 15.34 / 21.49,
    ("resnet101", 2): 22.99 / 31.70,
    ("resnet101", 3): 18.18 / 31.70,
    ("vit_small", 3): 11.73 / 20.70,
    ("swin_tiny", 3): 15.83 / 26.78,
    ("swin_small", 3): 22.83 / 42.60,
}
_FAKE = "fake tensors", "fake tensors as on a GPU"
COUNTS = {"resnet32": [2, 3, 4, 8, 16]}

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet32", *IMAGENET])
    parser.add_argument("--batch", type=int, help="images (default: 256 of ImageNet's size, 128 of CIFAR's)")
    parser.add_argument("--modules", type=int, nargs="+", help="K (default: 2 3; resnet32: 2 3 4 8 16)")
    parser.add_argument("--cuts", type=int, nargs="+", help="the blocks that begin a new module, instead of the best")
    what = "fake tensors take the path of a GPU: bfloat16 autocast, channels last"
    parser.add_argument("--as-gpu", action="store_true", help=what)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in ["resnet32"] if args.quick else args.networks:
        check(NETWORKS[name], args.device)
        batch = args.batch or (256 if NETWORKS[name].classes == 1000 else 128)
        for row in _network_rows(args, name, Stretches(NETWORKS[name], batch, args.as_gpu)):
            options = f"--networks {name} --batch {batch}" + " --as-gpu" * args.as_gpu
            if row["count"] > 1:
                options += f" --cuts {' '.join(map(str, row['cuts']))}"
            yield options, {"network": name, "batch": batch, "image_size": NETWORKS[name].image_size, **row}


def check(network: Network, device: str) -> None:
    """Gradients of what is measured, on small images."""
    x, y = network.inputs(8, device, image_size=min(64, network.image_size))
    require_agreement(modules(network, 2, x), x, y, ["directional"])


def _network_rows(args: argparse.Namespace, name: str, stretches: Stretches) -> Iterator[Row]:
    bp = _step(stretches, (), "BP", args.device)

    def row(cuts: tuple[int, ...], method: str, peak: int) -> Row:
        count = len(cuts) + 1
        paper = PAPER.get((name, count)) if method == "Algorithm 1" else None
        measured = {"peak_bytes": peak, "over_bp": peak / bp, "paper_over_bp": paper}
        how = "allocator" if args.device == "cuda" else _FAKE[args.as_gpu]
        return {"count": count, "cuts": cuts, "module": None, "method": method, **measured, "how": how}

    yield row((), "BP", bp)
    yield row((), "BP + checkpointing", _step(stretches, (), "BP + checkpointing", args.device))
    for count, method in itertools.product(_counts(args, name), SGR_METHODS):
        cuts = tuple(args.cuts or search(stretches, count, method)[0])
        yield row(cuts, method, _step(stretches, cuts, method, args.device))
        if args.device == "cpu":
            yield from _module_rows(stretches, cuts, method)


def _counts(args: argparse.Namespace, name: str) -> list[int]:
    if args.cuts:
        return [len(args.cuts) + 1]
    return args.modules or ([2, 3] if args.quick else COUNTS.get(name, [2, 3]))


def _step(stretches: Stretches, cuts: tuple[int, ...], method: str, device: str) -> int:
    """Peak of a whole step, with gradients that are there before, as in every step but the first."""
    with stretches.measuring() if device == "cpu" else contextlib.nullcontext():
        x, y = stretches.inputs() if device == "cpu" else stretches.network.inputs(stretches.batch, device)
        parts = modules(stretches.network, cuts, x)
        if device == "cuda":
            METHODS[method](parts, x, y)  # what a first step sets up once
        torch.clear_autocast_cache()  # of weights, cast while the heads were made
        return peak_bytes(lambda: METHODS[method](parts, x, y), device)


def _module_rows(stretches: Stretches, cuts: tuple[int, ...], method: str) -> Iterator[Row]:
    """Every module that reconciles, against its own plain local step."""
    edges = itertools.pairwise([0, *cuts, len(stretches.blocks)])
    for index, (first, last) in enumerate(edges, start=1):
        if first > 0:
            peak, plain = (stretches.peak(first, last, name) for name in (method, "plain local"))
            yield {
                "count": len(cuts) + 1,
                "cuts": cuts,
                "module": index,
                "method": method,
                "peak_bytes": peak,
                "over_plain": peak / plain,
                "how": _FAKE[stretches.as_gpu],
            }


def line(row: Row) -> str:
    where = "whole step" if row["module"] is None else f"module {row['module']}"
    ratio = f"{row['over_bp']:.3f} x BP" if row["module"] is None else f"{row['over_plain']:.3f} x plain local"
    paper = f" (paper: {row['paper_over_bp']:.3f})" if row.get("paper_over_bp") else ""
    cuts = " ".join(map(str, row["cuts"]))
    name = f"{row['network']}, batch {row['batch']}, K={row['count']} ({cuts})"
    return f"{name}, {row['method']}, {where}: {row['peak_bytes'] / 2**30:.2f} GiB, {ratio}{paper}"
