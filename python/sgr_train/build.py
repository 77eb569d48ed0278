"""The network and the method of a run."""

from __future__ import annotations

import torch

import sgr_kernels as sk

from . import methods, networks
from .config import RunConfig
from .errors import UsageError
from .networks.network import Network


def build(config: RunConfig, num_classes: int, image_shape: tuple[int, int, int]) -> tuple[Network, methods.Method]:
    """A new network for images (C, H, W), and the method that trains it.

    Draws the same random numbers for every method, so that methods compared start from the same weights.

    Raises:
        UsageError: the cuts do not fit the blocks, the head does not fit the features, or the method the network.
    """
    method = methods.REGISTRY.make(config.method, **own_options(config))
    network = networks.create(
        config.model,
        num_classes=num_classes,
        image_shape=image_shape,
        modules=config.modules,
        cuts="stages" if config.cuts == ("stages",) else config.cuts,
        head=config.head,
        head_options=config.options["head"][config.head],
        **config.options["model"][config.model],
    )
    if methods.is_whole(config.method):
        network = network.whole()
    if config.bp_free:
        _require_closed_form(config, network)
    if config.checkpoint_blocks:
        network.checkpoint_blocks()
    methods.prepare(method, network, torch.zeros(2, *image_shape))
    return network, method


def own_options(config: RunConfig) -> dict[str, object]:
    """Those of the method of the run."""
    return config.options["method"][config.method]


def _require_closed_form(config: RunConfig, network: Network) -> None:
    for k, module in enumerate(network, 1):
        if sk.engines.automatic(module.body) != "fused":
            raise UsageError(
                f"--bp-free needs modules of linear layers or convolutions with ReLU, and module {k} of --model "
                f"{config.model} is none; use plainnet or mlp"
            )
