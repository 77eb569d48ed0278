"""Images in one .npz file, in the MedMNIST layout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from ..errors import UsageError, one_line
from . import Splits, register
from .argument import path_argument
from .splits import Images


@register("npz")
def npz(argument: str) -> Splits:
    """npz:PATH, one file in the MedMNIST layout, uint8, gray or RGB.

    It holds train_images, train_labels, test_images, test_labels and, if there are any, val_images, val_labels.

    Raises:
        UsageError: names the file and what is wrong in it.
    """
    path = path_argument("npz", argument)
    arrays = _arrays(path)
    splits = [name.partition("_")[0] for name in arrays if name.endswith("_images")]
    pixels = {split: _pixels(path, split, arrays[f"{split}_images"]) for split in splits}
    if len({images.shape[1:] for images in pixels.values()}) > 1:
        shapes = ", ".join(f"{split}_images {tuple(images.shape)}" for split, images in pixels.items())
        raise UsageError(f"--data npz:{path}: all images must have one size and number of channels, got {shapes}")
    total = sum(map(len, pixels.values()))
    images = {
        split: Images(pixels[split], _labels(path, split, arrays[f"{split}_labels"], len(pixels[split]), total))
        for split in splits
    }
    return Splits(images["train"], images.get("val"), images["test"])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the layout, images of a split before its labels; nothing else in the file is looked at."""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"it is a single array; np.savez writes {path.stem}.npz")
            members = {name.removesuffix(".npy"): name for name in archive.zip.namelist()}
            return {name: _array(archive.zip, name, members[name]) for name in _required(path, list(members))}
    except FileNotFoundError as error:
        raise UsageError(f"--data npz:{path}: there is no such file; correct the path") from error
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy have one for every damage
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"--data npz:{path} cannot be read; is it a complete .npz file? ({reason})") from error


def _required(path: Path, found: list[str]) -> list[str]:
    splits = ["train", *(["val"] if {"val_images", "val_labels"} & set(found) else []), "test"]
    required = [f"{split}_{what}" for split in splits for what in ("images", "labels")]
    missing = [name for name in required if name not in found]
    if missing:
        raise UsageError(f"--data npz:{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}")
    return required


def _array(archive: zipfile.ZipFile, name: str, member: str) -> np.ndarray:
    """One array. Its member is read to the end, where the checksum is: NumPy stops where its header says."""
    try:
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            while file.read(2**20):
                pass
    except Exception as error:
        raise ValueError(f"{name}: {one_line(error)}") from error
    return array


def _pixels(path: Path, split: str, images: np.ndarray) -> torch.Tensor:
    """(N, C, H, W) uint8."""
    known = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not known or 0 in images.shape[1:]:
        raise UsageError(
            f"--data npz:{path}: {split}_images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"H, W >= 1, got {images.dtype} {images.shape}"
        )
    pixels = torch.from_numpy(images)
    return pixels.unsqueeze(1) if images.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _labels(path: Path, split: str, labels: np.ndarray, count: int, images: int) -> torch.Tensor:
    """(count,) int64, below the number of ``images`` in the file: a class has an image, or its label is a mistake."""
    name = f"--data npz:{path}: {split}_labels"
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((count,), (count, 1)):
        raise UsageError(f"{name} must be {count} integers >= 0, one an image, got {labels.dtype} {labels.shape}")
    labels = labels.reshape(-1)
    bad = np.flatnonzero((labels < 0) | (labels >= max(images, 1)))
    if len(bad):
        raise UsageError(
            f"{name} must be >= 0 and below {images}, the images there are; label {bad[0]} is {labels[bad[0]]}"
        )
    return torch.from_numpy(labels.astype(np.int64))
