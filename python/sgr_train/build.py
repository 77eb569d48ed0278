"""The network, the method, the optimizers and the learning rate of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

import sgr_kernels as sk

from . import methods, networks, optimizers, schedules
from .config import RunConfig
from .data.splits import Batch
from .errors import UsageError
from .memory.best_cuts import best_cuts
from .memory.step import Sizes
from .networks.cuts import Cuts
from .networks.network import Network


def build(
    config: RunConfig, num_classes: int, image_shape: tuple[int, int, int], found: Cuts = ()
) -> tuple[Network, methods.Method]:
    """A new network for images (C, H, W), and the method that trains it.

    Draws the same random numbers for every method, so that methods compared start from the same weights.

    Args:
        found: the cuts that "auto" found when the run began; (): it begins.

    Raises:
        UsageError: the cuts do not fit the blocks, the head does not fit the features, or the method the network.
    """
    method = make_method(config)
    create = functools.partial(
        networks.create,
        config.model,
        num_classes=num_classes,
        image_shape=image_shape,
        head=config.head,
        head_options=config.options["head"][config.head],
        **config.options["model"][config.model],
    )
    network = create(modules=config.modules, cuts=_cuts(config, create, method, found))
    if methods.is_whole(config.method):
        network = network.whole()
    if config.bp_free:
        _require_closed_form(config, network)
    if config.label_smoothing:
        _smooth_labels(config, network)
    if config.checkpoint_blocks:
        network.checkpoint_blocks()
    methods.prepare(method, network, torch.zeros(2, *image_shape))
    return network, method


def make_method(config: RunConfig) -> methods.Method:
    """That of the run.

    Raises:
        UsageError: its options do not fit together, or it cannot do what the run asks of it.
    """
    method = methods.REGISTRY.make(config.method, **own_options(config))
    if config.amp == "fp16" and not hasattr(method, "grad_scale"):
        raise UsageError(f"--amp fp16: --method {config.method} has no grad_scale to scale its losses by; take bf16")
    return method


def _cuts(config: RunConfig, create: Callable[..., Network], method: methods.Method, found: Cuts) -> Cuts | str:
    """What the network is made with; "auto" searches the cuts when a run begins, and draws no random numbers."""
    if config.cuts == ("stages",):
        return "stages"
    if config.cuts != ("auto",):
        return config.cuts
    if methods.is_whole(config.method):
        return ()  # it is not cut
    if found:
        return found
    with torch.device("meta"):
        blocks, start = create(), create(modules=config.modules).cuts
        batch = empty_batch(config, blocks.image_shape)
    if config.checkpoint_blocks:
        blocks.checkpoint_blocks()
    return best_cuts(blocks, method, *batch, start, sizes_of(config))[0]


def empty_batch(config: RunConfig, image_shape: tuple[int, int, int]) -> Batch:
    """Images (B, C, H, W) and labels (B,) of nothing."""
    return torch.empty(config.batch_size, *image_shape), torch.empty(config.batch_size, dtype=torch.long)


def sizes_of(config: RunConfig) -> Sizes:
    """For the path that the tensors of the run take."""
    half = None if config.amp is None else torch.bfloat16  # as large as float16
    return Sizes(gpu=config.device != "cpu" and torch.cuda.is_available(), autocast=half)


def make_optimizers(config: RunConfig, network: Network) -> list[torch.optim.Optimizer]:
    """One a module."""
    make, options = optimizers.REGISTRY.find(config.optimizer), config.options["optimizer"][config.optimizer]
    return [make(module.parameters(), config.lr, config.weight_decay, **options) for module in network]


def learning_rate(config: RunConfig, epoch: float) -> float:
    """After so many epochs, with a fraction within one."""
    factor, options = schedules.REGISTRY.find(config.schedule), config.options["schedule"][config.schedule]
    return config.lr * factor(epoch % config.epochs, config.epochs, **options)


def own_options(config: RunConfig) -> dict[str, object]:
    """Those of the method of the run."""
    return config.options["method"][config.method]


def _smooth_labels(config: RunConfig, network: Network) -> None:
    for module in network:
        if not hasattr(module.head, "label_smoothing"):
            raise UsageError(f"--label-smoothing: --head {config.head} cannot smooth labels; choose another --head")
        module.head.label_smoothing = config.label_smoothing


def _require_closed_form(config: RunConfig, network: Network) -> None:
    for k, module in enumerate(network, 1):
        if sk.engines.automatic(module.body) != "fused":
            raise UsageError(
                f"--bp-free needs modules of linear layers or convolutions with ReLU, and module {k} of --model "
                f"{config.model} is none; use plainnet or mlp"
            )
