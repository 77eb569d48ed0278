"""What is measured of the zoo: every network that is registered, and some sizes of those that have several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sgr_train import networks
from sgr_train.errors import UsageError
from sgr_train.networks.network import Network
from sgr_train.registry import Registry
from torch import Tensor

# Names of sizes: the entry and its options. PlainNets are those of the paper's BP-free training.
SIZES = {
    **{f"plainnet{depth}": ("plainnet", {"depth": depth, "width": 32, "norm": "none"}) for depth in (4, 8, 16)},
    "vgg7": ("vgg", {"depth": 7, "width": 16}),
}
SMALL = ("resnet14", "vgg7", "vit_cifar", "swin_cifar")  # one of every kind, for what takes long


def create(name: str, modules: int | None = None, cuts: Sequence[int] = (), image_size: int | None = None) -> Network:
    """A network with new weights, cut and with heads as the zoo has them, for as many classes as its data set has."""
    model, options = SIZES.get(name, (name, {}))
    channels, size, _ = networks.facts(model).image_shape
    shape = channels, image_size or size, image_size or size
    return networks.create(
        model, num_classes=classes(name), image_shape=shape, modules=modules, cuts=tuple(cuts), **options
    )


def inputs(name: str, batch: int, device: str = "cpu", image_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Random images (B, C, H, W), of the data set's size if no other is given, and labels."""
    channels, size, _ = networks.facts(SIZES.get(name, (name,))[0]).image_shape
    images = torch.randn(batch, channels, image_size or size, image_size or size, device=device)
    return images, torch.randint(classes(name), (batch,), device=device)


def image_size(name: str) -> int:
    return networks.facts(SIZES.get(name, (name,))[0]).image_shape[1]


def classes(name: str) -> int:
    """10 for images of CIFAR's size, 1000 for those of ImageNet's."""
    return 10 if image_size(name) <= 64 else 1000


def network_name(word: str) -> str:
    """For argparse: a name of SIZES, or of an entry."""
    try:
        networks.REGISTRY.find(SIZES.get(word, (word,))[0])
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return word


def of_plugins(registry: Registry) -> list[str]:
    """Names of the entries that do not come with the zoo."""
    return [name for name in registry.names() if not registry.find(name).__module__.startswith("sgr_train.")]
