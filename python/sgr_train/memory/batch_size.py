"""``--batch-size auto``: the largest batch that fits, into which the memory goes that local learning saves."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
from collections.abc import Callable

import torch

from .. import methods
from ..build import build, empty_batch, sizes_of
from ..config import RunConfig, Settings, run_of
from ..data.splits import Images
from ..errors import Diverged, UsageError, one_line, say
from ..graphs import WARM_UP
from ..hooks import Hooks
from ..loader import Data, Facts, augmentations_of, facts_of
from ..train import measure, new_training, prepare_device, train_epoch
from .estimate import kept_bytes
from .step import peak_below

GIB = 2**30
SHARE = 0.9  # of a GPU's memory, in a trial: images and what lies between tensors take the rest
OF_LIBRARIES = "STATUS_ALLOC_FAILED"  # what cuBLAS and cuDNN say that are out of memory, as plain RuntimeErrors
STEPS = 2  # of a trial: the second has the state that optimizers made in the first


def with_batch_size(config: Settings, dry: bool = False) -> Settings:
    """The same settings with a number in the place of "auto": that fits all methods of the command.

    Args:
        dry: on sizes alone.

    Raises:
        UsageError: there is no GPU to try it on and no ``memory`` to hold it against, or not even two images fit.
    """
    if config.batch_size != "auto":
        return config
    if config.memory is None and (dry or not on_gpu(config)):
        raise UsageError("--batch-size auto is tried on a GPU, or held against --memory GIB: give that, or a number")
    facts, fits = facts_of(config), fits_in_a_trial if config.memory is None else fits_by_sizes
    images = facts.train // config.accumulate
    if images < 2:
        raise UsageError(f"--accumulate {config.accumulate} leaves no 2 of the {facts.train} images a batch; lower it")
    most = images
    for run in runs_of(config):
        most = largest(fits(run, facts), most)
    if most == 0:
        raise UsageError("--batch-size auto: not even 2 images fit; lower --width, --depth or --image-size")
    how = "in a trial" if config.memory is None else f"into {config.memory:g} GiB by its tensors"
    say(f"batch size {most}: the largest that fits {how}, of at most {images} images; lr stays {config.lr:g}")
    return dataclasses.replace(config, batch_size=most, memory=None)


def on_gpu(config: Settings) -> bool:
    return config.device != "cpu" and torch.cuda.is_available()


def runs_of(config: Settings) -> list[RunConfig]:
    """One with each method of the command."""
    if isinstance(config, RunConfig):
        return [config]
    return [run_of(config, config.out, method, seed=0) for method in config.options["method"]]


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size up to ``most`` that fits, of 2, 4 and the multiples of 8; 0 if none does.

    Args:
        fits: whether a size does. If one does, so do those below.
    """
    size, good = 2, 0
    while size <= most and fits(size):
        size, good = 2 * size, size
    low, high = good // 8, min(size, most + 8) // 8  # what fits, and what does not, in eights
    while low and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(8 * middle) else (low, middle)
    return 8 * low or good


def fits_by_sizes(config: RunConfig, facts: Facts) -> Callable[[int], bool]:
    """Whether weights, optimizers and a step on tensors without numbers need no more than ``config.memory``."""
    sizes, limit = sizes_of(config), config.memory * GIB
    with torch.device("meta"):
        network, method = build(dataclasses.replace(config, batch_size=2), facts.num_classes, facts.image_shape)
    limit -= kept_bytes(config, network)

    def fits(size: int) -> bool:
        with torch.device("meta"):
            x, y = empty_batch(dataclasses.replace(config, batch_size=size), facts.image_shape)
        made = sizes.copy((network, method), [network])
        batch = sizes.tensor(x), sizes.tensor(y)
        try:
            return peak_below(limit, *made, *batch, sizes, config.accumulate) < math.inf
        except RuntimeError as error:  # of torch, for what needs the numbers
            raise UsageError(f"--batch-size auto cannot measure this --method ({one_line(error)}); give it") from error

    return fits


def fits_in_a_trial(config: RunConfig, facts: Facts) -> Callable[[int], bool]:
    """Whether steps of training and what is measured after them end without being out of memory."""

    def fits(size: int) -> bool:
        there = torch.cuda.is_available()
        if there:
            torch.cuda.set_per_process_memory_fraction(SHARE)
        fitted = _ends(dataclasses.replace(config, batch_size=size, save_every=None, save_minutes=None), facts)
        if there:  # and what an exception held is free by now
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0)
        return fitted

    return fits


def _ends(config: RunConfig, facts: Facts) -> bool:
    try:
        _try(config, facts)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or OF_LIBRARIES in str(error):
            return False
        raise
    return True


def _try(config: RunConfig, facts: Facts) -> None:
    """A short epoch of every phase on images of noise."""
    device = prepare_device(config)
    steps = WARM_UP + STEPS if config.cuda_graph else STEPS  # one is captured after the warm-up
    count = steps * config.batch_size * config.accumulate
    pixels = torch.randint(256, (count, *facts.image_shape), dtype=torch.uint8, device=device)
    images = Images(pixels, torch.arange(count, device=device) % facts.num_classes)
    mean, std = (torch.full((1, facts.image_shape[0], 1, 1), 127.5, device=device) for _ in range(2))
    augment = augmentations_of(config, facts.image_shape)
    classes = tuple(map(str, range(facts.num_classes)))
    data = Data(images, images, images, classes, facts.image_shape, mean, std, "", augment)
    run = new_training(config, data)
    for phase in range(methods.phases(run.method, run.network)):
        run.history = [{}] * (phase * config.epochs)
        with contextlib.suppress(Diverged):  # on noise; it took its memory
            train_epoch(run, config, data, Hooks())
            measure(run.result, config, data)
        run.epoch = None
