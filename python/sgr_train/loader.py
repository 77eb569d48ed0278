"""A data set as training takes it: split, normalised, augmented, in batches.

The split into training, validation and test images is fixed, the same for every seed. A split drawn per seed would put
one seed's test images among another's validation images, so that a choice made on validation images would have seen
them; and it would add to both sides of a paired comparison the same noise that pairing is there to remove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import augmentations
from .config import Settings
from .data import REGISTRY as DATA_SETS
from .data.splits import Batch, Files, Images, stratified_order
from .errors import UsageError, note

VALIDATION_FRACTION = 0.1  # of the training images, where the data set has no validation images of its own
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Split = Images | Files


class Facts(NamedTuple):
    """What is known of a data set before its images are looked at: how many train, classes, and (C, H, W)."""

    train: int
    num_classes: int
    image_shape: tuple[int, int, int]


@dataclass
class Data:
    """A data set, split; pixels are normalised by ``mean`` and ``std`` (1, C, 1, 1). ``image_shape`` is (C, H, W).

    ``classes`` are their names, in the order of the labels. ``fingerprint`` is a SHA-256 of all images and labels: a
    run goes on with the data it began with, or not at all. ``augment`` are the augmentations of training batches.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    fingerprint: str
    augment: Sequence[Callable[[Tensor, Tensor, Data, torch.Generator], Batch]]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def order(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Indices of the training images of one epoch."""
        return torch.randperm(len(self.train), generator=generator)[: self.images_per_epoch(batch_size)]

    def augmented(self, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """Normalised, augmented training batches of these indices."""
        for pixels, labels in self.train.load(batches):
            x = self.normalise(pixels)
            for augment in self.augment:
                x, labels = augment(x, labels, self, generator)
            yield x, labels

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of them."""
        return self.augmented(self.order(batch_size, generator).split(batch_size), generator)

    def ordered(self, split: Split, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Normalised batches of the first ``limit`` images of a split, as they are."""
        for pixels, labels in split.load(torch.arange(len(split))[:limit].split(batch_size)):
            yield self.normalise(pixels), labels

    def images_per_epoch(self, batch_size: int) -> int:
        """Whole batches only, unless all the images are fewer than one batch."""
        return len(self.train) // batch_size * batch_size or len(self.train)

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean) / self.std

    def pixels(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`normalise`: uint8."""
        return (x * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)


def load_data(config: Settings, device: torch.device) -> Data:
    """Load and split the data set of ``config.data``.

    Raises:
        UsageError: the data is missing, damaged, or not what the layout asks for.
    """
    train, val, test, classes = _splits(config)
    fingerprint = hashlib.sha256(repr((len(classes), *(s.fingerprint() for s in (train, val, test)))).encode())
    mean, std = _statistics(train)
    image_shape = _image_shape(train)
    splits = (split.to(device) for split in (train, val, test))
    augment = augmentations_of(config, image_shape)
    return Data(*splits, classes, image_shape, mean.to(device), std.to(device), fingerprint.hexdigest(), augment)


def facts_of(config: Settings) -> Facts:
    """Raises UsageError as :func:`load_data`, but image files are not looked into."""
    train, _, _, classes = _splits(config)
    return Facts(len(train), len(classes), _image_shape(train))


def augmentations_of(config: Settings, image_shape: tuple[int, int, int]) -> list[Callable[..., Batch]]:
    """Those of the settings, or that go without saying for such images."""
    names = (augmentations.OF_COLOUR if image_shape[0] == 3 else ()) if config.augment is None else config.augment
    return [partial(augmentations.REGISTRY.find(name), **config.options["augment"][name]) for name in names]


def _image_shape(split: Split) -> tuple[int, int, int]:
    return tuple(split.pixels.shape[1:]) if isinstance(split, Images) else (3, split.size, split.size)


def _splits(config: Settings) -> tuple[Split, Split, Split, tuple[str, ...]]:
    """Training, validation and test images, and the names of the classes."""
    name, _, argument = config.data.partition(":")
    train, val, test, classes = DATA_SETS.make(name, argument, **config.options["data"][name])
    if classes is None:
        classes = tuple(map(str, range(_count_classes(config.data, [s.labels for s in (train, val, test) if s]))))
    order = stratified_order(train.labels)
    if val is None:
        held_out = round(VALIDATION_FRACTION * len(train))
        val, order = train.subset(order[:held_out]), order[held_out:]
    if config.train_subset is not None:
        if config.train_subset > len(order):
            given = f"the training images there are, got {config.train_subset}"
            raise UsageError(f"--train-subset must be at most {len(order)}, {given}")
        order = order[: config.train_subset]
    train = train.subset(order)
    if len(train) < 2 or len(val) == 0 or len(test) == 0:
        given = f"{len(train)} / {len(val)} / {len(test)}"
        needed = "to train / validate / test, of which 2 / 1 / 1 are needed"
        raise UsageError(f"--data {config.data} has too few images: {given} {needed}")
    return train, val, test, classes


def _count_classes(data: str, labels: list[Tensor]) -> int:
    """One more than the largest label; a class without any image is noted, for its label may be a mistake."""
    found = torch.cat(labels).unique()
    count = int(found.max()) + 1 if len(found) else 0
    if len(found) < count:
        empty = torch.isin(torch.arange(count), found).logical_not().nonzero().flatten()
        note(f"--data {data}: {len(empty)} of {count} classes have no image, the first is {empty[0]}; is this meant?")
    return count


def _statistics(train: Split) -> tuple[Tensor, Tensor]:
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
