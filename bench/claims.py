"""What a method says of itself, against what its steps do: by the facts of its class, without knowing any by name."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from sgr_train.networks.network import Network
from sgr_train.networks.statistics import frozen_statistics
from torch import Tensor, nn

from .checks import SAME, WrongResult, require_error_below
from .ways import Step

FEW = 2  # images
# A GPU adds up in no fixed order, and a difference of gradients multiplies what that rounds.
REPEATED = {"cpu": SAME["float32"], "cuda": 10 * SAME["float32"]}

Gradients = dict[str, list[Tensor]]  # by name of the parameter, of every step that has some for it


def require_claims(step: Step, network: Network, x: Tensor, y: Tensor) -> None:
    """Take steps on copies; ``step`` stays as it is.

    Args:
        step: of any method, around the blocks of ``network``.
        x, y: inputs (B, C, H, W) and labels (B,), of which a few are taken.

    Raises:
        UsageError: the method is not defined on the network.
        WrongResult: losses or gradients are not finite; a gradient is missing that back-propagation has, or it changes
            after its module was said to be complete; steps from one seed differ; the gradient of a module depends on
            modules after it, or a graph leads from block to block, where the facts of the class say otherwise.
    """
    x, y = x[:FEW], y[:FEW]
    found = _gradients(step, x, y)
    learning = _trained_by_bp(network, x, y)
    missing = [name for name, p in step.network.named_parameters() if id(p) in learning and name not in found]
    if missing:
        raise WrongResult(f"it gives {missing[0]} and {len(missing) - 1} other parameters no gradient, and BP does")
    _require_same("a second step from the same seed", _gradients(step, x, y), found)
    if _fact(step, "update_unlocking"):
        modules = len(step.network)
        for first in sorted({1, modules - 1} - {0, modules}):
            other = _gradients(step, x, y, changed_from=first)
            early = [{n: g for n, g in each.items() if int(n.partition(".")[0]) < first} for each in (other, found)]
            _require_same(f"what modules before {first + 1} get when later ones change", *early)


def _fact(step: Step, name: str) -> bool:
    """Whether the class of the method claims it."""
    return getattr(getattr(step.method, "facts", None), name, None) == "yes"


def _trained_by_bp(network: Network, x: Tensor, y: Tensor) -> set[int]:
    """Ids of the parameters that get a gradient from the last loss."""
    network.zero_grad()
    with frozen_statistics(network):
        for module in network:
            x = module.body(x)
        network[-1].head(x, y).backward()
    found = {id(parameter) for parameter in network.parameters() if parameter.grad is not None}
    network.zero_grad()
    return found


def _gradients(step: Step, x: Tensor, y: Tensor, changed_from: int | None = None) -> Gradients:
    """Of one call of a copy, as they are when their module is said to be complete.

    Args:
        changed_from: the first module, from 0, whose parameters have other values; None: none has.
    """
    step = copy.deepcopy(step)
    torch.manual_seed(1)
    for module in list(step.network)[changed_from:] if changed_from else ():
        for parameter in module.parameters():
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    found: Gradients = {}
    complete: Gradients = {}  # of the step that is under way

    def update(k: int) -> None:
        for name, parameter in step.network[k].named_parameters(prefix=str(k)):
            if parameter.grad is not None:
                complete.setdefault(name, []).append(parameter.grad.clone())

    torch.manual_seed(0)
    with _no_graph_between_blocks(step.network) if _fact(step, "bp_free") else contextlib.nullcontext():
        for losses in step.one_by_one(x, y, update):
            _require_complete(step.network, losses, complete)
            for name, gradients in complete.items():
                found.setdefault(name, []).extend(gradients)
            complete.clear()
    return found


def _require_complete(network: Network, losses: list[Tensor], complete: Gradients) -> None:
    if not losses or not all(loss.dim() == 0 and loss.isfinite() for loss in losses):
        raise WrongResult("its losses are not finite numbers, one at least")
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            if not parameter.grad.isfinite().all():
                raise WrongResult(f"its gradient of {name} is not finite")
            if name not in complete or not complete[name][-1].equal(parameter.grad):
                raise WrongResult(f"its gradient of {name} changes after its module was said to be complete")


def _require_same(what: str, found: Gradients, expected: Gradients) -> None:
    if {name: len(each) for name, each in found.items()} != {name: len(each) for name, each in expected.items()}:
        raise WrongResult(f"{what}: it has a gradient for other parameters")
    flat = [torch.cat([g.flatten() for each in both.values() for g in each]) for both in (found, expected)]
    require_error_below(REPEATED[flat[0].device.type], what, *flat)


@contextlib.contextmanager
def _no_graph_between_blocks(network: Network) -> Iterator[None]:
    """Raises WrongResult where a block, or a layer that is called by itself, is given a tensor with a graph."""
    inside: list[nn.Module] = []

    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        if not inside and given[0].grad_fn is not None:
            raise WrongResult(f"a graph leads from block to block, into {type(module).__name__}, and it is BP-free")
        inside.append(module)

    def leave(*_: Any) -> None:
        inside.pop()

    layers = [layer for block in network.blocks() for layer in block.modules()]
    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
