"""The images of one split, in memory or in files: what training takes its batches from."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from . import image_files

SPLIT_SEED = 0
MAX_WORKERS = 8  # threads that decode image files
BATCHES_AHEAD = 2  # decoded while the device computes

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
    """Image files below ``root``, decoded by threads; resized and centre-cropped to ``size`` x ``size`` pixels.

    Threads rather than processes: decoding and resizing leave Python's lock alone, nothing has to go through shared
    memory, and an error keeps its name.
    """

    def __init__(
        self, root: Path, paths: Sequence[str], labels: Tensor, size: int, device: torch.device | str = "cpu"
    ) -> None:
        from torchvision import transforms

        self.root = root
        self.paths = paths
        self.labels = labels
        self.size = size
        self.device = torch.device(device)
        self.to_pixels = transforms.Compose(
            [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Files:
        return Files(self.root, [self.paths[i] for i in indices], self.labels[indices], self.size, self.device)

    def to(self, device: torch.device) -> Files:
        """Batches will be on the device."""
        return Files(self.root, self.paths, self.labels, self.size, device)

    def fingerprint(self) -> str:
        """SHA-256 of the names, contents and labels. Every file is decoded, so that a bad one is known beforehand."""
        with ThreadPoolExecutor(_workers()) as pool:
            files = image_files.fingerprint(self.root, self.paths, pool)
        return hashlib.sha256(files.encode() + self.labels.numpy().tobytes()).hexdigest()

    def load(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        pool, ahead = ThreadPoolExecutor(_workers()), deque()
        try:
            for indices in batches:
                ahead.append((pool.map(self._pixels, indices.tolist()), self.labels[indices]))
                if len(ahead) > BATCHES_AHEAD:
                    yield self._to_device(*ahead.popleft())
            while ahead:
                yield self._to_device(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, index: int) -> Tensor:
        return self.to_pixels(image_files.read(self.paths[index]))

    def _to_device(self, images: Iterable[Tensor], labels: Tensor) -> Batch:
        pixels = torch.stack(list(images))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


def _workers() -> int:
    return min(MAX_WORKERS, os.cpu_count() or 1)


def stratified_order(labels: Tensor) -> Tensor:
    """A fixed random order in which every prefix, and every slice, has nearly the class shares of the whole."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    position = torch.empty(len(labels), dtype=torch.float64)  # where in its class, 0 to 1
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        position[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return shuffled[position[shuffled].argsort(stable=True)]
