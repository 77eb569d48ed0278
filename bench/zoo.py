"""What is measured of the zoo: every network that is registered, and some sizes of those that have several."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

import torch
from sgr_train import networks
from sgr_train.errors import UsageError
from sgr_train.networks.network import Network
from torch import Tensor

# Names of sizes: the entry and its options. PlainNets are those of the paper's BP-free training.
SIZES = {
    **{f"plainnet{depth}": ("plainnet", {"depth": depth, "width": 32, "norm": "none"}) for depth in (4, 8, 16)},
    "vgg7": ("vgg", {"depth": 7, "width": 16}),
}
SMALL = ("resnet14", "vgg7", "vit_cifar", "swin_cifar")  # one of every kind, for what takes long


def create(
    name: str,
    modules: int | None = None,
    cuts: Sequence[int] = (),
    *,
    image_size: int | None = None,
    device: str = "cpu",
) -> Network:
    """A network with new weights, cut and with heads as the zoo has them, for as many classes as its data set has."""
    model, options = SIZES.get(name, (name, {}))
    with torch.device("meta") if device == "meta" else contextlib.nullcontext():
        network = networks.create(
            model,
            num_classes=classes(name),
            image_shape=_shape(name, image_size),
            modules=modules,
            cuts=tuple(cuts),
            **options,
        )
    return network.to(device)


def inputs(name: str, batch: int, device: str = "cpu", image_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Random images (B, C, H, W), of the data set's size if no other is given, and labels."""
    images = torch.randn(batch, *_shape(name, image_size), device=device)
    return images, torch.randint(classes(name), (batch,), device=device)


def at_most(name: str, modules: int) -> int:
    """So many modules, or as many as there are blocks."""
    return min(modules, len(create(name, device="meta")))


def _shape(name: str, size: int | None) -> tuple[int, int, int]:
    channels, own, _ = networks.facts(SIZES.get(name, (name,))[0]).image_shape
    return channels, size or own, size or own


def image_size(name: str) -> int:
    return _shape(name, None)[1]


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


def of_plugins() -> list[str]:
    """Names of the networks that do not come with the zoo."""
    own = f"{networks.__name__}."
    return [name for name in networks.names() if not networks.REGISTRY.find(name).__module__.startswith(own)]
