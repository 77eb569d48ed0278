"""Everything that moves while training goes on: what a checkpoint holds, from which a run goes on bit by bit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from . import methods
from .data.splits import Batch
from .loss_scale import LossScale
from .networks.network import Network


@dataclass
class Epoch:
    """How far an epoch has come, and what has been added up in it."""

    order: Tensor  # of the training images
    losses: Tensor  # sums over images, one a head that trains, nats
    counted: Tensor  # images in these sums
    steps: int = 0  # taken
    images: int = 0  # seen
    seconds: float = 0.0  # of training
    waited: float = 0.0  # of these, for batches

    @classmethod
    def begin(cls, order: Tensor, device: torch.device) -> Epoch:
        return cls(order, torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device))

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; adds the time that they take to be there."""
        batches = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def add(self, losses: Tensor, images: int, may_overflow: bool) -> None:
        """A step; of those that may overflow, losses that are not finite count for nothing: they have changed none."""
        counts = losses.isfinite() if may_overflow else torch.ones_like(losses, dtype=torch.bool)
        self.losses = self.losses + torch.where(counts, losses * images, 0)
        self.counted = self.counted + counts * images
        self.steps, self.images = self.steps + 1, self.images + images

    @property
    def mean(self) -> Tensor:
        """Loss of every head that trains, over images."""
        return self.losses / self.counted


def weights_of_result(state: dict[str, Any]) -> dict[str, Any]:
    """Of a checkpoint, those of :attr:`Training.result`."""
    if state["average"] is None:
        return state["network"]
    return {name.removeprefix("module."): value for name, value in state["average"].items() if name != "n_averaged"}


@dataclass
class Training:
    """A network in training, and the history of what was measured."""

    network: Network
    method: methods.Method
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # batch order and augmentation
    epochs: int  # of all phases of the method
    classes: tuple[str, ...]  # their names
    history: list[dict[str, Any]] = field(default_factory=list)  # one row an epoch
    epoch: Epoch | None = None  # that has begun, after those of the history
    run_id: str = ""  # which its files carry
    average: AveragedModel | None = None  # of the weights over steps
    scale: LossScale | None = None  # of float16
    saved: float = field(default_factory=time.monotonic)  # when it was kept last

    @property
    def result(self) -> Network:
        """The network that is measured."""
        return self.network if self.average is None else self.average.module

    @property
    def skipped(self) -> int:
        """Optimizer steps of modules that were not taken, as gradients in float16 overflowed."""
        return 0 if self.scale is None else self.scale.skipped

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scale": None if self.scale is None else self.scale.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "epochs": self.epochs,
            "history": self.history,
            "epoch": None if self.epoch is None else asdict(self.epoch),
            "classes": self.classes,
            "image_shape": self.network.image_shape,
            "cuts": self.network.cuts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = state["history"]
        if state["epoch"] is not None:
            self.epoch = Epoch(**state["epoch"])
            device = self.network.mean.device
            self.epoch.losses, self.epoch.counted = self.epoch.losses.to(device), self.epoch.counted.to(device)
