"""Batches of image files: the loader of the driver, and a DataLoader of torch over the same transforms of torchvision.

Both decode, resize and crop the same JPEG files of 160 x 120 pixels in the same order, with as many processes. Those of
the DataLoader stay from one pass to the next; the driver starts its own in every pass, which is timed with it.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from sgr_train.data.decoding import Loading
from sgr_train.data.splits import Files
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from .checks import WrongResult
from .timing import interleaved

Row = dict[str, Any]
PIXELS = (160, 120)  # of a file, width and height
CLASSES = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, help="files (default 20000, with --quick 512)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="processes that decode (default 2)")
    parser.add_argument("--batch", type=int, default=128, help="images (default 128)")
    parser.add_argument("--size", type=int, default=112, help="pixels of a side that they are cropped to (default 112)")
    parser.add_argument("--repeats", type=int, default=5, help="passes over all images (default 5)")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    images = args.images or (512 if args.quick else 20000)
    with tempfile.TemporaryDirectory() as folder:
        make_images(pathlib.Path(folder), images)
        for workers in args.workers:
            facts = {"images": images, "workers": workers, "batch": args.batch, "size": args.size}
            selection = " ".join(f"--{name} {value}" for name, value in {**facts, "repeats": args.repeats}.items())
            passes = loaders(pathlib.Path(folder), workers, args.batch, args.size)
            require_the_same(passes)
            runs = {name: partial(_run, batches) for name, batches in passes.items()}
            for name, timing in interleaved(runs, args.repeats).items():
                rate = images / timing.seconds
                yield selection, {"loader": name, **facts, "images_per_second": rate, **timing._asdict()}


def make_images(folder: pathlib.Path, count: int) -> None:
    """Smooth random JPEG files in as many class folders as there are classes."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        coarse.resize(PIXELS, Image.Resampling.BICUBIC).save(folder / str(number % CLASSES) / f"{number}.jpg")


def loaders(folder: pathlib.Path, workers: int, batch: int, size: int) -> dict[str, Iterable]:
    """What gives batches of all images, in one order, at every pass."""
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    images = datasets.ImageFolder(folder, transforms.Compose(steps))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    paths, labels = zip(*images.samples, strict=True)
    files = Files(folder, paths, torch.tensor(labels), size, loading=Loading(workers))
    theirs = DataLoader(images, batch, sampler=order.tolist(), num_workers=workers, persistent_workers=workers > 0)
    return {"sgr_train": _Passes(files, order.split(batch)), "DataLoader": theirs}


class _Passes:
    """Over the same batches of files, again and again."""

    def __init__(self, files: Files, batches: Iterable[Tensor]) -> None:
        self.files, self.batches = files, batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.files.load(self.batches)


def require_the_same(passes: dict[str, Iterable]) -> None:
    """Raises WrongResult unless all give the same pixels and labels."""
    for batches in zip(*passes.values(), strict=True):
        first, *others = batches
        if not all(a.equal(b) for other in others for a, b in zip(first, other, strict=True)):
            raise WrongResult(f"{' and '.join(passes)} give other batches")


def _run(batches: Iterable) -> int:
    return sum(len(labels) for _, labels in batches)


def line(row: Row) -> str:
    settings = f"{row['images']} images, batch {row['batch']}, {row['size']} px, {row['workers']} workers"
    return f"{row['loader']:10} {row['images_per_second']:6.0f} images/s  ({settings}, {row['repeats']} passes)"
