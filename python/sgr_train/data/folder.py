"""Image files in folders."""

from __future__ import annotations

from typing import Annotated

import torch

from ..errors import UsageError, one_line
from ..options import Count, Range
from . import Splits, register
from .argument import path_argument
from .decoding import Loading
from .splits import Files


@register("folder")
def folder(
    argument: str,
    *,
    image_size: Count = 32,
    workers: Annotated[int, Range(0, 1024)] | None = None,
    prefetch: Count = 2,
    pin_memory: bool = False,
) -> Splits:
    """folder:DIR, an ImageFolder tree with train/, test/ and, if there is one, val/.

    Args:
        image_size: side length in pixels to which images are resized and cropped.
        workers: processes that decode images, of which the results do not depend; 0: none but that which trains. Left
            out: one a CPU, at most 8.
        prefetch: batches that are decoded ahead.
        pin_memory: copy batches to a GPU from pinned memory, while the CPU goes on.
    """
    from torchvision import datasets

    root = path_argument("folder", argument)
    loading = Loading(workers, prefetch, pin_memory)
    splits, classes = [], None
    for name in ("train", "val", "test"):
        if name == "val" and not (root / name).exists():
            splits.append(None)
            continue
        try:
            part = datasets.ImageFolder(root / name)
        except OSError as error:
            raise UsageError(f"--data folder:{root} needs {name}/CLASS/IMAGE files ({one_line(error)})") from error
        if part.classes != (classes or part.classes):
            other = ", ".join(sorted({*part.classes}.symmetric_difference(classes)))
            raise UsageError(
                f"--data folder:{root}: {name}/ must have the class folders of train/; one of both has {other}"
            )
        classes = part.classes
        paths = [path for path, _ in part.samples]
        splits.append(Files(root, paths, torch.tensor(part.targets), image_size, loading=loading))
    return Splits(*splits, tuple(classes))
