"""The ways to take one training step that are compared: each adds the gradients of one step into ``.grad``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint_sequential

import sgr_kernels as sk

from .checks import require_error_below
from .networks import LocalModule

# Of the SGR loss with reduction "mean": some percent of the gradient, so that rounding does not hide it.
WEIGHT = 1e6
# Largest relative error of an SGR gradient: the truncation of the directional engine's default step is up to 3%, what
# bfloat16 does to a difference up to 40%.
ALLOWED = {"float32": 0.1, "bfloat16": 0.5}
EVERY = 4
ENGINES = {"directional": "directional", "fused": "fused", "Algorithm 1": "autograd"}
EVERY_NTH = f"directional, every {EVERY}th"
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Modules = list[LocalModule]


class Inputs(NamedTuple):
    """Of one module in the middle of a step."""

    x: Tensor
    y: Tensor
    delta_pre: Tensor | None


def zero_grad(modules: Modules) -> None:
    for module in modules:
        for part in module:
            part.zero_grad()


def module_step(
    module: LocalModule, inputs: Inputs, method: str, need_delta_out: bool, weight: float = WEIGHT
) -> sk.LocalStep:
    """One module's step; ``method`` is "plain local" or a key of ENGINES."""
    reconcile = method != "plain local" and inputs.delta_pre is not None
    engine = ENGINES[method] if reconcile else "autograd"
    # The double backward of Algorithm 1 has no flash attention to go through.
    with sdpa_kernel(SDPBackend.MATH if reconcile and engine == "autograd" else _ATTENTION):
        delta_pre = inputs.delta_pre if reconcile else None
        options = {"weight": weight, "engine": engine, "need_delta_out": need_delta_out}
        return sk.local_step(*module, inputs.x, inputs.y, delta_pre, **options)


def local(modules: Modules, x: Tensor, y: Tensor, method: str) -> None:
    zero_grad(modules)
    delta_pre = None
    for k, module in enumerate(modules):
        need_delta_out = method != "plain local" and k + 1 < len(modules)
        step = module_step(module, Inputs(x, y, delta_pre), method, need_delta_out)
        x, delta_pre = step.output, step.delta_out


def every_nth(modules: Modules, x: Tensor, y: Tensor) -> None:
    """EVERY steps, of which the first reconciles."""
    for index in range(EVERY):
        local(modules, x, y, "plain local" if index else "directional")


def back_propagation(modules: Modules, x: Tensor, y: Tensor) -> None:
    zero_grad(modules)
    for module in modules:
        x = module.body(x)
    modules[-1].head(x, y).backward()


def checkpointed(modules: Modules, x: Tensor, y: Tensor) -> None:
    """Back-propagation that keeps the input of every block and computes the rest twice."""
    zero_grad(modules)
    blocks = torch.nn.Sequential(*(block for module in modules for block in module.body))
    features = checkpoint_sequential(blocks, len(blocks), x, use_reentrant=False)
    modules[-1].head(features, y).backward()


METHODS: dict[str, Callable[[Modules, Tensor, Tensor], None]] = {
    "BP": back_propagation,
    "BP + checkpointing": checkpointed,
    "plain local": lambda modules, x, y: local(modules, x, y, "plain local"),
    "directional": lambda modules, x, y: local(modules, x, y, "directional"),
    EVERY_NTH: every_nth,
    "fused": lambda modules, x, y: local(modules, x, y, "fused"),
    "Algorithm 1": lambda modules, x, y: local(modules, x, y, "Algorithm 1"),
}


def module_inputs(modules: Modules, x: Tensor, y: Tensor) -> list[Inputs]:
    """What every module is given in a step of Algorithm 1, or of any other method: it is the same."""
    inputs, delta_pre = [], None
    for module in modules:
        inputs.append(Inputs(x, y, delta_pre))
        step = module_step(module, inputs[-1], "plain local", need_delta_out=True)
        x, delta_pre = step.output, step.delta_out
    zero_grad(modules)
    return inputs


def gradient(modules: Modules) -> Tensor:
    """Of all parameters, one after another."""
    parameters = (p for module in modules for part in module for p in part.parameters())
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def require_agreement(
    modules: Modules, x: Tensor, y: Tensor, methods: Iterable[str], limit: float = ALLOWED["float32"]
) -> dict[tuple[int, str], float]:
    """Errors of the SGR gradients of all modules but the first, by index and method; WrongResult above the limit."""
    found = {}
    for index, (module, inputs) in enumerate(zip(modules, module_inputs(modules, x, y), strict=True), start=1):
        if inputs.delta_pre is not None:
            truth = sgr_gradient(module, inputs, "Algorithm 1", "reference")
            for method in methods:
                result = sgr_gradient(module, inputs, method)
                found[index, method] = require_error_below(limit, f"{method} in module {index}", result, truth)
    return found


def sgr_gradient(module: LocalModule, inputs: Inputs, method: str, backend: str | None = None) -> Tensor:
    """Of all parameters, of the SGR term alone."""
    total = []
    for name in (method, "plain local"):
        zero_grad([module])
        torch.manual_seed(0)  # the same dropout
        with sk.backend(backend) if backend else contextlib.nullcontext():
            module_step(module, inputs, name, need_delta_out=False)
        total.append(gradient([module]))
    zero_grad([module])
    return total[0] - total[1]
