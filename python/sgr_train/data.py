"""Data sets: where the images come from, how they are split, batched and augmented.

The split into training, validation and test images is fixed, the same for every seed. A split drawn per seed would put
one seed's test images among another's validation images, so that a choice made on validation images would have seen
them; and it would add to both sides of a paired comparison the same noise that pairing is there to remove.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Settings
from .errors import UsageError

SPLIT_SEED = 0
VALIDATION_FRACTION = 0.1  # of the training images, where the data set has no validation images of its own
DIGITS_FRACTIONS = (0.6, 0.2)  # training and validation; the rest is for the test
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_WORKERS = 8  # processes that decode image files
PADDING = 4  # pixels a training image may move in each direction

Batch = tuple[Tensor, Tensor]


class Images:
    """Images in memory: ``pixels`` (N, C, H, W) uint8 and ``labels`` (N,) int64, both on the device."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            indices = indices.to(self.labels.device)
            yield self.pixels[indices], self.labels[indices]


class Files:
    """Images in an ImageFolder tree, decoded by worker processes; resized and centre-cropped to one size."""

    def __init__(self, folder, labels: Tensor, device: torch.device) -> None:
        self.folder = folder
        self.labels = labels
        self.device = device

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Files:
        return Files(torch.utils.data.Subset(self.folder, indices.tolist()), self.labels[indices], self.device)

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        loader = torch.utils.data.DataLoader(
            self.folder,
            batch_sampler=[indices.tolist() for indices in batches],
            num_workers=min(MAX_WORKERS, os.cpu_count() or 1),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader's own draws must not move the run's random stream
        )
        for pixels, labels in loader:
            yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


@dataclass
class Data:
    """A data set, split; pixels are normalised by ``mean`` and ``std`` (1, C, 1, 1). ``image_shape`` is (C, H, W)."""

    train: Images | Files
    val: Images | Files
    test: Images | Files
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of normalised training batches; colour images are shifted and flipped."""
        order = torch.randperm(len(self.train), generator=generator)
        for pixels, labels in self.train.load(order[: self.images_per_epoch(batch_size)].split(batch_size)):
            x = self._normalise(pixels)
            yield (augment(x, generator) if self.image_shape[0] == 3 else x), labels

    def ordered(self, split: Images | Files, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Normalised batches of the first ``limit`` images of a split, as they are."""
        for pixels, labels in split.load(torch.arange(len(split))[:limit].split(batch_size)):
            yield self._normalise(pixels), labels

    def images_per_epoch(self, batch_size: int) -> int:
        """Whole batches only, unless all the images are fewer than one batch."""
        return len(self.train) // batch_size * batch_size or len(self.train)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean) / self.std


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by up to 4 pixels (zero padding), flip half of them left to right. (B, C, H, W) -> same."""
    count, channels, height, width = x.shape
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = (top + torch.arange(height)).to(x.device)
    columns = left + torch.arange(width)
    columns = torch.where(flip, columns.flip(1), columns).to(x.device)
    image, channel = torch.arange(count, device=x.device), torch.arange(channels, device=x.device)
    padded = F.pad(x, [PADDING] * 4)
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def load_data(config: Settings, device: torch.device) -> Data:
    """Load and split the data set of ``config.data``.

    Raises:
        UsageError: the data is missing, damaged, or not what the layout asks for.
    """
    kind, _, path = config.data.partition(":")
    if kind == "folder":
        train, val, test, num_classes = _folder(Path(path), config.image_size, device)
    else:
        train, val, test = _digits() if kind == "digits" else _npz(Path(path)) if kind == "npz" else _cifar(config)
        num_classes = 1 + max(int(split.labels.max()) for split in (train, val, test) if split)
    order = stratified_order(train.labels)
    if val is None:
        held_out = round(VALIDATION_FRACTION * len(train))
        val, order = train.subset(order[:held_out]), order[held_out:]
    if config.train_subset is not None:
        if config.train_subset > len(order):
            raise UsageError(f"--train-subset must be at most {len(order)}, the training images there are")
        order = order[: config.train_subset]
    train = train.subset(order)
    if len(train) < 2 or len(val) == 0 or len(test) == 0:
        raise UsageError(f"--data {config.data} has too few images: {len(train)} / {len(val)} / {len(test)}")
    mean, std = _statistics(train)
    image_shape = (3, config.image_size, config.image_size)
    if isinstance(train, Images):
        image_shape = tuple(train.pixels.shape[1:])
        train, val, test = (Images(s.pixels.to(device), s.labels.to(device)) for s in (train, val, test))
    return Data(train, val, test, num_classes, image_shape, mean.to(device), std.to(device))


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed random order in which every prefix, and every slice, has nearly the class shares of the whole."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    position = torch.empty(len(labels), dtype=torch.float64)  # where in its class, 0 to 1
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[position[shuffled].argsort(stable=True)]


def _statistics(train: Images | Files) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of the training images, in units of a pixel value."""
    if isinstance(train, Files):
        mean, std = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
    else:
        chunks = train.pixels.split(4096)
        count = train.pixels.numel() / train.pixels.shape[1]
        mean = sum(c.double().sum((0, 2, 3)) for c in chunks) / count
        square = sum(c.double().square().sum((0, 2, 3)) for c in chunks) / count
        mean, std = mean.float(), (square - mean**2).sqrt().clamp_min(1e-3).float()
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def _digits() -> tuple[Images, Images, Images]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = Images(torch.tensor(digits.images, dtype=torch.uint8).unsqueeze(1), torch.tensor(digits.target).long())
    order = stratified_order(images.labels)
    first, second = (round(f * len(images)) for f in (DIGITS_FRACTIONS[0], sum(DIGITS_FRACTIONS)))
    return tuple(images.subset(part) for part in (order[:first], order[first:second], order[second:]))


def _npz(path: Path) -> tuple[Images, Images | None, Images]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UsageError(f"--data npz:{path}: there is no such file") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"--data npz:{path} cannot be read; is it a complete .npz file? ({error})") from error
    required = ["train_images", "train_labels", "test_images", "test_labels"]
    required += ["val_images", "val_labels"] if arrays.keys() & {"val_images", "val_labels"} else []
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UsageError(f"--data npz:{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}")
    train = _images(path, arrays, "train")
    val = _images(path, arrays, "val") if "val_images" in arrays else None
    test = _images(path, arrays, "test")
    for split in filter(None, (val, test)):
        if split.pixels.shape[1:] != train.pixels.shape[1:]:
            raise UsageError(f"--data npz:{path}: all images must have one size and number of channels")
    return train, val, test


def _images(path: Path, arrays: dict[str, np.ndarray], split: str) -> Images:
    """One split of an .npz as (N, C, H, W) pixels and (N,) labels."""
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise UsageError(
            f"--data npz:{path}: {split}_images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"got {images.dtype} {images.shape}"
        )
    one_each = labels.shape in ((len(images),), (len(images), 1))
    if not np.issubdtype(labels.dtype, np.integer) or not one_each or (labels.size and labels.min() < 0):
        raise UsageError(
            f"--data npz:{path}: {split}_labels must be {len(images)} integers >= 0, one an image, "
            f"got {labels.dtype} {labels.shape}"
        )
    pixels = torch.from_numpy(images)
    pixels = pixels.unsqueeze(1) if images.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))


def _cifar(config: Settings) -> tuple[Images, None, Images]:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.data]
    splits = []
    for is_train in (True, False):
        try:
            part = source(config.data_dir, train=is_train, download=config.download)
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"{config.data} is not in --data-dir {config.data_dir}, or not whole; --download fetches it "
                f"({str(error).splitlines()[0]})"
            ) from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Images(pixels, torch.tensor(part.targets)))
    return splits[0], None, splits[1]


def _folder(root: Path, size: int, device: torch.device) -> tuple[Files, Files | None, Files, int]:
    from torchvision import datasets, transforms

    to_pixels = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
    splits, classes = [], None
    for name in ("train", "val", "test"):
        if name == "val" and not (root / name).is_dir():
            splits.append(None)
            continue
        try:
            part = datasets.ImageFolder(root / name, to_pixels)
        except FileNotFoundError as error:
            raise UsageError(f"--data folder:{root} needs {name}/CLASS/IMAGE files ({error})") from error
        if part.classes != (classes or part.classes):
            raise UsageError(f"--data folder:{root}: {name}/ must have the class folders of train/")
        classes = part.classes
        splits.append(Files(part, torch.tensor(part.targets), device))
    return *splits, len(classes)
