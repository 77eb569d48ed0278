"""Numbers that are no longer finite: where they are first seen, and what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .build import own_options
from .config import RunConfig
from .errors import Diverged
from .networks.network import Network

CHECK_EVERY = 100  # steps between two looks at the losses, for which a GPU has to be awaited


@contextlib.contextmanager
def advice(config: RunConfig, when: str) -> Iterator[None]:
    """Adds to :class:`Diverged` when it happened and what to change."""
    try:
        yield
    except Diverged as error:
        own = own_options(config) | config.options["optimizer"][config.optimizer]
        too_large = {
            "lr": True,
            "weight": own.get("weight") is not None,
            "rho": "rho" in own and own.get("weight") is None,
            "momentum": own.get("momentum", 0) >= 1,
            "weight_decay": config.lr * config.weight_decay >= 1,
            "clip_grad_norm": config.clip_grad_norm is not None,
        }
        flags = [name for name, possible in too_large.items() if possible]
        values = {**own, **vars(config)}
        changes = [f"lower --{name.replace('_', '-')} (now {values[name]:g})" for name in flags]
        if config.clip_grad_norm is None:
            changes.append("set --clip-grad-norm")
        if config.amp == "fp16":
            changes.append("take --amp bf16")
        raise Diverged(f"training diverged {when}: {error}; {' or '.join(changes)}, and start again") from error


class Watch:
    """Notices sums of losses that are not finite on their device, which is not awaited before :meth:`check`.

    Args:
        updated: the modules that were, as it stands at a check; losses are of the last of them.
    """

    def __init__(self, updated: set[int]) -> None:
        self.updated = updated
        self._first: Tensor | None = None  # step of the first such loss by head, 0 of none
        self._values: Tensor | None = None

    def see(self, losses: Tensor, step: int) -> None:
        """Sums after a step, counted from 1."""
        if self._first is None or self._first.shape != losses.shape:
            self._first, self._values = torch.zeros_like(losses, dtype=torch.long), losses
        new = (self._first == 0) & ~losses.isfinite()
        self._first = torch.where(new, step, self._first)
        self._values = torch.where(new, losses, self._values)

    def check(self) -> None:
        """Raises Diverged with the module and the step of the first loss that was not finite."""
        if self._first is None or not self._first.any():
            return
        heads = [(step, head) for head, step in enumerate(self._first.tolist()) if step]
        step, head = min(heads)
        modules = sorted(self.updated)[-len(self._first) :]
        number = modules[head] if len(modules) == len(self._first) else head
        raise Diverged(f"the loss of module {number + 1} is {self._values[head].item()} in step {step} of the epoch")


def check_weights(network: Network) -> None:
    """Raises Diverged where a weight or a running statistic is not finite, as the last step may have left it."""
    for k, module in enumerate(network, 1):
        for name, tensor in module.state_dict().items():
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                raise Diverged(f"{name} of module {k} is not finite")
