"""Ways to train a network. They own no data, optimizer or schedule, and work in anybody's loop.

A method is a class with one call, ``step(network, x, y, update) -> losses``: one training step for inputs ``x``
(B, C, H, W) and labels ``y`` (B,), or class probabilities (B, K) under mixup. It adds gradients into ``.grad`` and
calls ``update(k)`` when those of module k, counted from 0, are complete; the caller may then step its optimizer and
clear its gradients. The result is a 0-d detached loss for each head that trains, the network's last. Options are the
keyword-only arguments of the constructor.

It may have more:
    prepare(network, sample): called once, before the optimizers are made, as it may make parameters; puts what the
        method owns into ``module.aux``. ``sample`` is an input (B, C, H, W).
    begin_epoch(epoch, epochs): called before each epoch, counted from 0; ``epochs`` are those of one phase.
    phases(network): how many times ``epochs`` epochs, each with a schedule of its own, it trains; 1 if left out.
    module_step(module, x, y, delta_pre, last): of a method whose modules step one after the other, each on its own: the
        part of ``step`` for one of them, a sgr_kernels.LocalStep. ``delta_pre`` is the ``delta_out`` of the module
        before it. With it ``--cuts auto`` measures modules in the place of whole steps.
    grad_scale: a number, 1 unless the caller sets another one before a step: the factor on all gradients that ``step``
        adds, and on those inside of it, so that none is too small for float16. Losses come back without it. ``--amp
        fp16`` is for methods with this attribute.
    why_not_compiled(network): why ``--compile`` is nothing for it, if so: a text, or None.
    why_not_captured(): why its steps are not the same for ``--cuda-graph``, and what to change, if so; or None.
    observe(network): numbers, or lists of them, by name, that it has found in an epoch, for its row in metrics.jsonl.
    whole: True for a class that trains the network end to end, on the loss of the last head alone.
    facts: :class:`~sgr_train.methods.facts.Facts` of a class, for the table of ``sgr-train methods``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from ..networks.network import Network
from ..registry import Registry
from .facts import COLUMNS, Facts

REGISTRY = Registry("method", __name__)
register, names = REGISTRY.register, REGISTRY.names

Update = Callable[[int], None]


def no_update(_: int) -> None:
    """For :meth:`Method.step`: leave the gradients of all modules where they are."""


class Method(Protocol):
    """What every method has; see above."""

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]: ...


def prepare(method: Method, network: Network, sample: Tensor) -> None:
    """Call the hook of this name, if the method has it.

    Before the optimizers are made: what the method puts into ``module.aux``, or in the place of a head, may have
    parameters, which an optimizer made earlier does not train. ``sample`` is an input (B, C, H, W).
    """
    hook = getattr(method, "prepare", None)
    if hook is not None:
        hook(network, sample)


def begin_epoch(method: Method, epoch: int, epochs: int) -> None:
    """Call the hook of this name, if the method has it, before each epoch; ``epochs`` are those of one phase."""
    hook = getattr(method, "begin_epoch", None)
    if hook is not None:
        hook(epoch, epochs)


def observe(method: Method, network: Network) -> dict[str, Any]:
    """What the hook of this name gives, if the method has it."""
    hook = getattr(method, "observe", None)
    return {} if hook is None else hook(network)


def phases(method: Method, network: Network) -> int:
    """How many times the epochs of a run it trains."""
    hook = getattr(method, "phases", None)
    return 1 if hook is None else hook(network)


def in_phases(name: str) -> bool:
    """Whether it may train more than once the epochs of a run."""
    return hasattr(REGISTRY.find(name), "phases")


def is_whole(name: str) -> bool:
    """Whether it trains the network end to end."""
    return getattr(REGISTRY.find(name), "whole", False)


def table() -> list[list[str]]:
    """Attributes of Table 1 and costs, a row a method; "?" where its class does not say."""
    entries = {name: REGISTRY.find(name) for name in names()}
    unknown = ("?",) * len(Facts._fields)
    return [list(COLUMNS), *([name, *getattr(entry, "facts", unknown)] for name, entry in entries.items())]


def __getattr__(name: str) -> type:
    return REGISTRY.attribute(name)


REGISTRY.load()
