"""Everything that moves while training goes on: what a checkpoint holds, from which a run goes on bit by bit."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from . import methods
from .networks.network import Network


@dataclass
class Epoch:
    """How far an epoch has come, and what has been added up in it."""

    order: Tensor  # of the training images
    losses: Tensor  # sums over images, one a head that trains, nats
    steps: int = 0  # taken
    images: int = 0  # seen
    seconds: float = 0.0  # of training


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
    saved: float = field(default_factory=time.monotonic)  # when it was kept last

    @property
    def result(self) -> Network:
        """The network that is measured."""
        return self.network if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
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
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.history = state["history"]
        if state["epoch"] is not None:
            self.epoch = Epoch(**state["epoch"])
            self.epoch.losses = self.epoch.losses.to(self.network.mean.device)
