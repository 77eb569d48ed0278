"""The images of one split, in memory or in files: what training takes its batches from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import image_files
from .decoding import USUAL, Loading, decoded

SPLIT_SEED = 0

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

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            indices = indices.to(self.labels.device)
            yield self.pixels[indices], self.labels[indices]


class Files:
    """Image files below ``root``, resized and centre-cropped to ``size`` x ``size`` pixels."""

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Tensor,
        size: int,
        device: torch.device | str = "cpu",
        loading: Loading = USUAL,
    ) -> None:
        from torchvision import transforms

        self.root = root
        self.paths = paths
        self.labels = labels
        self.size = size
        self.device = torch.device(device)
        self.loading = loading
        self.crop = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Files:
        paths = [self.paths[i] for i in indices]
        return Files(self.root, paths, self.labels[indices], self.size, self.device, self.loading)

    def to(self, device: torch.device) -> Files:
        """Batches will be on the device."""
        return Files(self.root, self.paths, self.labels, self.size, device, self.loading)

    def fingerprint(self) -> str:
        """SHA-256 of the names, contents and labels. Every file is decoded, so that a bad one is known beforehand."""
        with ThreadPoolExecutor(max(self.loading.count, 1)) as pool:
            files = image_files.fingerprint(self.root, self.paths, pool)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        batches = [indices.tolist() for indices in batches]
        shape = (3, self.size, self.size)
        for indices, images in zip(batches, decoded(self._pixels, batches, shape, self.loading), strict=True):
            yield self._to_device(torch.from_numpy(images)), self._to_device(self.labels[indices])

    def _pixels(self, index: int) -> np.ndarray:
        return np.asarray(self.crop(image_files.read(self.paths[index]))).transpose(2, 0, 1)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """A copy."""
        if self.loading.pin_memory and self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device, copy=True)


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed random order in which every prefix, and every slice, has nearly the class shares of the whole."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    position = torch.empty(len(labels), dtype=torch.float64)  # where in its class, 0 to 1
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[position[shuffled].argsort(stable=True)]
