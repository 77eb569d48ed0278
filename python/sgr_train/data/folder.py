"""Image files in folders."""

from __future__ import annotations

import torch

from ..errors import UsageError, one_line
from ..options import Count
from . import Splits, register
from .argument import path_argument
from .splits import Files


@register("folder")
def folder(argument: str, *, image_size: Count = 32) -> Splits:
    """folder:DIR, an ImageFolder tree with train/, test/ and, if there is one, val/.

    Args:
        image_size: side length in pixels to which images are resized and cropped.
    """
    from torchvision import datasets

    root = path_argument("folder", argument)
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
            raise UsageError(f"--data folder:{root}: {name}/ must have the class folders of train/")
        classes = part.classes
        splits.append(Files(root, [path for path, _ in part.samples], torch.tensor(part.targets), image_size))
    return Splits(*splits, tuple(classes))
