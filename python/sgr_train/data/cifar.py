"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import UsageError, one_line
from ..paths import expand
from . import Facts, Splits, register
from .argument import refuse_argument
from .splits import Images


@register("cifar10", Facts(10, (3, 32, 32)))
def cifar10(argument: str, *, data_dir: Path = Path("data"), download: bool = False) -> Splits:
    """60,000 colour images of 32 x 32 pixels in 10 classes.

    Args:
        data_dir: where torchvision looks for them.
        download: let torchvision download them into data-dir.
    """
    return _load("cifar10", "CIFAR10", argument, data_dir, download)


@register("cifar100", Facts(100, (3, 32, 32)))
def cifar100(argument: str, *, data_dir: Path = Path("data"), download: bool = False) -> Splits:
    """60,000 colour images of 32 x 32 pixels in 100 classes.

    Args:
        data_dir: where torchvision looks for them.
        download: let torchvision download them into data-dir.
    """
    return _load("cifar100", "CIFAR100", argument, data_dir, download)


def _load(name: str, source: str, argument: str, data_dir: Path, download: bool) -> Splits:
    from torchvision import datasets

    refuse_argument(name, argument)
    parts = []
    for is_train in (True, False):
        try:
            part = vars(datasets)[source](expand(data_dir), train=is_train, download=download)
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"{name} is not in --data-dir {data_dir}, or not whole; --download fetches it ({one_line(error)})"
            ) from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        parts.append(Images(pixels, torch.tensor(part.targets)))
    return Splits(parts[0], None, parts[1], tuple(part.classes))
