"""Peak memory of one training step at full size, against back-propagation and the paper's Table 5.

On the CPU every step runs on fake tensors, which have sizes and no numbers: batch 256 of ImageNet images needs no GPU
and little time. What counts is the peak of the tensors that a step makes, gradients included, parameters and scratch
memory inside of operators not. On a GPU the step runs, and the allocator's peak is taken over what was there before.
With --as-gpu fake tensors take the path of a GPU, under autocast; dropout then counts two bytes an element, not one,
in what is not ours.
Before that, every method takes steps on small images, which are held to what its class says of it (see ``claims``), and
SGR gradients are compared with those of Algorithm 1.

Networks are cut where the step of the method needs least (see the part ``cuts``), as the paper does, or by --cuts;
where there are too many cuts to try, at their own. Of greedy training the phase counts that needs most.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sgr_train import methods
from sgr_train.errors import UsageError
from sgr_train.memory.best_cuts import Stretches, TooManyCuts
from sgr_train.memory.live import peak_bytes
from sgr_train.memory.step import Sizes
from sgr_train.networks.cuts import Cuts
from torch import Tensor

from . import cuts, zoo
from .checks import REPORTED, reason
from .claims import require_claims
from .stored import CHECKPOINTED, PUBLISHED
from .ways import WAYS, Step, Way, require_agreement, truth, ways

# Table 5: memory of SGR over that of global BP, by network and K
PAPER = {
    ("resnet50", 2): 17.91 / 21.49,
    ("resnet50", 3): 15.34 / 21.49,
    ("resnet101", 2): 22.99 / 31.70,
    ("resnet101", 3): 18.18 / 31.70,
    ("vit_s_16", 3): 11.73 / 20.70,
    ("swin_t", 3): 15.83 / 26.78,
    ("swin_s", 3): 22.83 / 42.60,
}
COUNTS = {"resnet32": [2, 3, 4, 8, 16]}
FEW_WAYS = dict.fromkeys(("resnet101", "vit_s_16", "swin_t", "swin_s"), ["BP", f"BP{CHECKPOINTED}", *cuts.SGR])

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    default = ["resnet32", *cuts.IMAGENET, *zoo.of_plugins()]
    parser.add_argument("--networks", nargs="+", type=zoo.network_name, default=default)
    parser.add_argument("--batch", type=int, help="images (default: 256 of ImageNet's size, 128 of CIFAR's)")
    parser.add_argument("--modules", type=int, nargs="+", help="K (default: 2 3; resnet32: 2 3 4 8 16)")
    parser.add_argument("--methods", nargs="+", choices=ways(), help="beside BP (default: all of resnet32, resnet50)")
    parser.add_argument("--cuts", type=int, nargs="+", help="the blocks that begin a new module, instead of the best")
    what = "fake tensors take the path of a GPU: bfloat16 autocast, channels last"
    parser.add_argument("--as-gpu", action="store_true", help=what)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in ["resnet32"] if args.quick else args.networks:
        measured = Measured(name, args)
        facts = {"network": name, "batch": measured.batch, "image_size": zoo.image_size(name)}
        for row in _network_rows(measured, args):
            options = f"--networks {name} --batch {measured.batch}" + " --as-gpu" * args.as_gpu
            if row.get("cuts"):
                options += f" --cuts {' '.join(map(str, row['cuts']))}"
            yield options, {**facts, **row}


class Measured:
    """Peaks of the steps of one network."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.device, self.as_gpu = name, args.device, args.as_gpu
        self.batch = args.batch or (256 if zoo.classes(name) == 1000 else 128)
        self.sizes = Sizes(gpu=self.as_gpu, autocast=torch.bfloat16 if self.as_gpu else None)
        self.how = "allocator" if self.device == "cuda" else "fake tensors" + " as on a GPU" * self.as_gpu

    def inputs(self, device: str) -> tuple[Tensor, Tensor]:
        images, labels = zoo.inputs(self.name, self.batch, device)
        return images.contiguous(memory_format=torch.channels_last) if self.as_gpu else images, labels

    def step(self, way: Way, chosen: Cuts) -> int:
        """Peak of a whole step, in bytes."""
        device = "cuda" if self.device == "cuda" else "meta"
        network = zoo.create(self.name, None if chosen else 1, chosen, device=device)
        x, y = self.inputs(device)
        step = Step(way, network, x)
        if device == "cuda":
            step(x, y)  # what a first step sets up once
            return peak_bytes(lambda: step(x, y), device)
        step, x, y = self.sizes.copy(step, [step.network]), self.sizes.tensor(x), self.sizes.tensor(y)
        with self.sizes.only():
            return peak_bytes(lambda: step(x, y), "cpu")

    def stretches(self, way: Way, plain: bool = False) -> Stretches:
        """Peaks of modules; ``plain``: given no gradient to reconcile with."""
        found = Stretches(cuts.blocks(self.name, way), way.make(), *self.inputs("meta"), self.sizes)
        found.reconciles = found.reconciles and not plain
        return found

    def cuts(self, way: Way, count: int) -> Cuts:
        """The best, or the network's own where they are too many to try."""
        if count == 1:
            return ()
        try:
            return cuts.found(self.name, way, count, *self.inputs("meta"), self.sizes)[0]
        except TooManyCuts:
            return zoo.create(self.name, count, device="meta").cuts


def _network_rows(measured: Measured, args: argparse.Namespace) -> Iterator[Row]:
    chosen = args.methods or FEW_WAYS.get(measured.name, ways())
    check, bp = _check_on(measured), measured.step(WAYS["BP"], ())
    for method in dict.fromkeys(["BP", *chosen]):
        way = ways()[method]
        place = {"count": None, "cuts": None, "module": None, "method": method}
        try:
            check(method, way)
            for count in [1] if methods.is_whole(way.method) else _counts(args, measured.name):
                place["count"] = count
                found = tuple(args.cuts) if args.cuts and count > 1 else measured.cuts(way, count)
                peak = measured.step(way, found)
                paper = PAPER.get((measured.name, count)) if method == PUBLISHED else None
                shares = {"peak_bytes": peak, "over_bp": peak / bp, "paper_over_bp": paper}
                yield {**place, "cuts": found, **shares, "how": measured.how}
                if args.device == "cpu" and way.method == "sgr":
                    for row in _module_rows(measured, way, found):
                        yield {**place, "cuts": found, **row, "how": measured.how}
        except UsageError as error:
            yield {**place, "undefined": f"{measured.name}, {method}: {error}"}
        except REPORTED as error:
            yield {**place, "failure": f"{measured.name}, {method}: {reason(error)}"}


def _counts(args: argparse.Namespace, name: str) -> list[int]:
    if args.cuts:
        return [len(args.cuts) + 1]
    return args.modules or ([2] if args.quick else COUNTS.get(name, [2, 3]))


def _check_on(measured: Measured) -> Callable[[str, Way], None]:
    """On small images: what the method claims, and the gradients of SGR."""
    x, y = zoo.inputs(measured.name, 8, measured.device, min(64, zoo.image_size(measured.name)))
    count = zoo.at_most(measured.name, 2)
    network = zoo.create(measured.name, count, image_size=x.shape[-1], device=measured.device)
    exact = functools.cache(lambda: truth(network, x, y))

    def check(method: str, way: Way) -> None:
        step = Step(way, network, x)
        if way.method == "sgr":
            require_agreement(method, step, exact())
        require_claims(step, network, x, y)

    return check


def _module_rows(measured: Measured, way: Way, chosen: Cuts) -> Iterator[Row]:
    """Every module that reconciles, against its own plain local step, which hands on a gradient too."""
    stretches = [measured.stretches(way), measured.stretches(way, plain=True)]
    edges = itertools.pairwise((0, *chosen, len(stretches[0].blocks)))
    for number, edge in enumerate(edges, start=1):
        if edge[0] > 0:
            peak, over = (each.peak(*edge) for each in stretches)
            yield {"module": number, "peak_bytes": peak, "over_plain": peak / over}


def line(row: Row) -> str:
    where = "whole step" if row["module"] is None else f"module {row['module']}"
    ratio = f"{row['over_bp']:.3f} x BP" if row["module"] is None else f"{row['over_plain']:.3f} x plain local"
    paper = f" (paper: {row['paper_over_bp']:.3f})" if row.get("paper_over_bp") else ""
    cuts = " ".join(map(str, row["cuts"]))
    name = f"{row['network']}, batch {row['batch']}, K={row['count']} ({cuts})"
    return f"{name}, {row['method']}, {where}: {row['peak_bytes'] / 2**30:.2f} GiB, {ratio}{paper}"
