"""Images in one .npz file, in the MedMNIST layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .errors import UsageError, one_line
from .splits import Images


def read_npz(path: Path) -> tuple[Images, Images | None, Images]:
    """Training, validation (None if there are none) and test images.

    Raises:
        UsageError: names the file and what is wrong in it.
    """
    arrays = _arrays(path)
    required = ["train_images", "train_labels", "test_images", "test_labels"]
    required += ["val_images", "val_labels"] if arrays.keys() & {"val_images", "val_labels"} else []
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UsageError(f"--data npz:{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    splits = [name.partition("_")[0] for name in required if name.endswith("_images")]
    pixels = {split: _pixels(path, split, arrays[f"{split}_images"]) for split in splits}
    if len({images.shape[1:] for images in pixels.values()}) > 1:
        raise UsageError(f"--data npz:{path}: all images must have one size and number of channels")
    total = sum(map(len, pixels.values()))
    images = {
        split: Images(pixels[split], _labels(path, split, arrays[f"{split}_labels"], len(pixels[split]), total))
        for split in splits
    }
    return images["train"], images.get("val"), images["test"]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"it is a single array; np.savez writes {path.stem}.npz")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UsageError(f"--data npz:{path}: there is no such file") from error
    except Exception as error:  # zipfile, zlib and NumPy have one for every damage
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"--data npz:{path} cannot be read; is it a complete .npz file? ({reason})") from error


def _pixels(path: Path, split: str, images: np.ndarray) -> torch.Tensor:
    """(N, C, H, W) uint8."""
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise UsageError(
            f"--data npz:{path}: {split}_images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"got {images.dtype} {images.shape}"
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
