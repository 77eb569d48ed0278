"""Data sets: where the images come from, how they are split, batched and augmented.

The split into training, validation and test images is fixed, the same for every seed. A split drawn per seed would put
one seed's test images among another's validation images, so that a choice made on validation images would have seen
them; and it would add to both sides of a paired comparison the same noise that pairing is there to remove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Settings, expand
from .errors import UsageError, note, one_line
from .npz import read_npz
from .splits import Batch, Files, Images

SPLIT_SEED = 0
VALIDATION_FRACTION = 0.1  # of the training images, where the data set has no validation images of its own
DIGITS_FRACTIONS = (0.6, 0.2)  # training and validation; the rest is for the test
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDING = 4  # pixels a training image may move in each direction


@dataclass
class Data:
    """A data set, split; pixels are normalised by ``mean`` and ``std`` (1, C, 1, 1). ``image_shape`` is (C, H, W).

    ``fingerprint`` is a SHA-256 of all images and labels: a run goes on with the data it began with, or not at all.
    """

    train: Images | Files
    val: Images | Files
    test: Images | Files
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    fingerprint: str

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
    kind, _, name = config.data.partition(":")
    path = expand(name)
    if kind == "folder":
        train, val, test, num_classes = _folder(path, config.image_size, device)
    else:
        train, val, test = _digits() if kind == "digits" else read_npz(path) if kind == "npz" else _cifar(config)
        num_classes = _count_classes(config.data, [split.labels for split in (train, val, test) if split])
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
    fingerprint = hashlib.sha256(repr((num_classes, *(s.fingerprint() for s in (train, val, test)))).encode())
    mean, std = _statistics(train)
    image_shape = (3, config.image_size, config.image_size)
    if isinstance(train, Images):
        image_shape = tuple(train.pixels.shape[1:])
        train, val, test = (Images(s.pixels.to(device), s.labels.to(device)) for s in (train, val, test))
    return Data(train, val, test, num_classes, image_shape, mean.to(device), std.to(device), fingerprint.hexdigest())


def _count_classes(data: str, labels: list[Tensor]) -> int:
    """One more than the largest label; a class without any image is noted, for its label may be a mistake."""
    found = torch.cat(labels).unique()
    count = int(found.max()) + 1 if len(found) else 0
    if len(found) < count:
        empty = torch.isin(torch.arange(count), found).logical_not().nonzero().flatten()
        note(f"--data {data}: {len(empty)} of {count} classes have no image, the first is {empty[0]}; is this meant?")
    return count


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


def _cifar(config: Settings) -> tuple[Images, None, Images]:
    from torchvision import datasets

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.data]
    splits = []
    for is_train in (True, False):
        try:
            part = source(expand(config.data_dir), train=is_train, download=config.download)
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"{config.data} is not in --data-dir {config.data_dir}, or not whole; --download fetches it "
                f"({one_line(error)})"
            ) from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        splits.append(Images(pixels, torch.tensor(part.targets)))
    return splits[0], None, splits[1]


def _folder(root: Path, size: int, device: torch.device) -> tuple[Files, Files | None, Files, int]:
    from torchvision import datasets

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
        splits.append(Files(root, [path for path, _ in part.samples], torch.tensor(part.targets), size, device))
    return *splits, len(classes)
