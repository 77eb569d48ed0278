"""What the modules before do to the loss of a module by their step (Figure 3)."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..files import read, write
from ..networks.statistics import frozen_statistics
from . import register

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..loader import Data
    from ..networks.network import Network
    from ..state import Training

FILE = "input_change.jsonl"
IMAGES = 256  # the first training images, without augmentation
MEASURED = 4  # steps of an epoch
Bodies = Sequence[tuple[nn.Module, nn.Module]]  # body and head of every module


@register("input_change")
class InputChange:
    """Figure 3, in input_change.jsonl of the run: the change of every local loss by the step of the modules before.

    A row a measured step, a few in every epoch: "epoch", "step" (from 1) and "change", of modules 2 to K in nats: the
    loss of module k as it was before the step, on what the modules before it give after the step, less that on what
    they gave before. On the same training images every time, with batch statistics as in training.
    """

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        """Rows of steps that an interrupted run takes again are dropped."""
        self._run, self._path = run, config.out / FILE
        images, labels = next(data.ordered(data.train, IMAGES, IMAGES))
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self._probe = images.contiguous(memory_format=layout), labels
        self._steps = measured_steps(data.images_per_epoch(config.batch_size * config.accumulate), config)
        if len(run.network) == 1:
            self._steps = set()
        self._rows = [row for row in _rows(self._path) if (row["epoch"], row["step"]) <= self._now]
        self._keep()

    def batch(self, images: int, loss: Tensor) -> None:
        epoch, step = self._now
        if step in self._steps and self._before is not None:
            change = changes(self._before, _copy(self._run.network), *self._probe)
            finite = [each if math.isfinite(each) else None for each in change]
            self._rows.append({"epoch": epoch, "step": step, "change": finite})
            write(self._path, "".join(json.dumps(row) + "\n" for row in self._rows).encode())
        self._keep()

    def epoch(self, row: dict[str, Any]) -> None:
        self._keep()

    @property
    def _now(self) -> tuple[int, int]:
        """The epoch under way, from 1, and how many steps of it were taken."""
        return len(self._run.history) + 1, self._run.epoch.steps if self._run.epoch else 0

    def _keep(self) -> None:
        """The network as it is, if the next step is measured."""
        self._before = _copy(self._run.network) if self._now[1] + 1 in self._steps else None


def measured_steps(images: int, config: RunConfig) -> set[int]:
    """Steps of an epoch of so many images, from 1, that update the weights, spread evenly."""
    steps = math.ceil(images / config.batch_size)
    updates = max(steps // config.accumulate, 1)
    middles = (math.ceil((index + 0.5) * updates / MEASURED) for index in range(MEASURED))
    return {min(config.accumulate * middle, steps) for middle in middles}


@torch.no_grad()
def changes(before: Bodies, after: Bodies, images: Tensor, labels: Tensor) -> list[float]:
    """Of modules 2 to K: the loss with the weights ``before``, on inputs of those ``after`` and of those ``before``."""
    found, old, new = [], images, images
    for (body, head), (stepped, _) in zip(before, after, strict=True):
        losses = []
        for x in (new, old):
            output = _same_draws(body, x)
            losses.append(_same_draws(head, output, labels).double())
        found.append((losses[0] - losses[1]).item())
        old, new = output, _same_draws(stepped, new)
    return found[1:]


def _same_draws(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Its result, with the random numbers that every call gets, and no trace of it."""
    device = inputs[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), frozen_statistics(module):
        torch.manual_seed(0)
        return module(*inputs)


def _copy(network: Network) -> Bodies:
    return [(copy.deepcopy(module.body), copy.deepcopy(module.head)) for module in network]


def _rows(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read(path).splitlines()] if path.exists() else []
