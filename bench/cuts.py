"""Where to cut a network so that a training step needs least memory: the search of ``sgr-train run --cuts auto``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

from sgr_train import methods
from sgr_train.errors import UsageError
from sgr_train.memory.best_cuts import best_cuts
from sgr_train.memory.step import Sizes
from sgr_train.networks.network import Network
from torch import Tensor

from . import zoo
from .stored import PUBLISHED
from .ways import Way, ways

SGR = ["directional", PUBLISHED]
IMAGENET = ["resnet50", "resnet101", "vit_s_16", "swin_t", "swin_s"]

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", type=zoo.network_name, default=IMAGENET)
    parser.add_argument("--batch", type=int, default=256, help="images (default 256)")
    parser.add_argument("--modules", type=int, nargs="+", default=[2, 3], help="K (default 2 3)")
    local = [name for name, way in ways().items() if not methods.is_whole(way.method)]
    parser.add_argument("--methods", nargs="+", choices=local, default=SGR)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    networks = ["resnet32"] if args.quick else args.networks
    for name, count, method in itertools.product(networks, args.modules, args.methods):
        facts = {"network": name, "batch": args.batch, "count": count, "method": method}
        selection = f"--networks {name} --batch {args.batch} --modules {count} --methods '{method}'"
        try:
            cuts, peak = found(name, ways()[method], count, *zoo.inputs(name, args.batch, "meta"), Sizes())
            yield selection, {**facts, "cuts": cuts, "peak_bytes": peak}
        except UsageError as error:
            yield selection, {**facts, "undefined": f"{name}, K={count}, {method}: {error}"}


def found(name: str, way: Way, count: int, images: Tensor, labels: Tensor, sizes: Sizes) -> tuple[tuple[int, ...], int]:
    """The best cuts into a number of modules, and the peak of a step in bytes.

    Raises:
        UsageError: the network has fewer blocks, or the method is not defined on it.
    """
    return best_cuts(blocks(name, way), way.make(), images, labels, zoo.create(name, count, device="meta").cuts, sizes)


def blocks(name: str, way: Way) -> Network:
    """Every block as a module, without numbers."""
    network = zoo.create(name, device="meta")
    if way.checkpointed:
        network.checkpoint_blocks()
    return network


def line(row: Row) -> str:
    cuts = " ".join(map(str, row["cuts"]))
    return f"{row['network']}, K={row['count']}, {row['method']}: cuts {cuts}, {row['peak_bytes'] / 2**30:.2f} GiB"
