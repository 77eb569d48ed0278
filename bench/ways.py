"""The ways to take one training step that are compared: methods of the zoo with options, and those of plug-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from sgr_train import methods
from sgr_train.methods.sgr import SGR
from sgr_train.networks.network import LocalModule, Network
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.double_backward import derivatives_of_torch

from .checks import require_error_below
from .stored import CHECKPOINTED, PUBLISHED

# Of the SGR loss with reduction "mean": some percent of the gradient, so that rounding does not hide it.
WEIGHT = 1e6
# Largest relative error of an SGR gradient: the truncation of the directional engine's default step is up to 3%, what
# bfloat16 does to a difference up to 40%.
ALLOWED = {"float32": 0.1, "bfloat16": 0.5}
EVERY = 4


class Way(NamedTuple):
    """A method and its options.

    Attributes:
        checkpointed: of every block the input alone is kept, the rest computed twice.
        published: the double backward is that of torch.
    """

    method: str
    options: dict[str, Any] = {}
    checkpointed: bool = False
    published: bool = False

    def make(self) -> methods.Method:
        return Algorithm1(**self.options) if self.published else methods.REGISTRY.make(self.method, **self.options)


class Algorithm1(SGR):
    """With all derivatives as torch has them."""

    @derivatives_of_torch()
    def module_step(self, *args: Any, **options: Any) -> sk.LocalStep:
        return super().module_step(*args, **options)


def _sgr(engine: str, **options: Any) -> Way:
    return Way("sgr", {"weight": WEIGHT, "reduction": "mean", "engine": engine, **options})


_PLAIN = {"engine": "autograd"}
EVERY_NTH = f"directional, every {EVERY}th"
WAYS = {
    "BP": Way("bp"),
    f"BP{CHECKPOINTED}": Way("bp", checkpointed=True),
    "plain local": Way("layerwise", _PLAIN),
    f"plain local{CHECKPOINTED}": Way("layerwise", _PLAIN, checkpointed=True),
    "reforward": Way("reforward", _PLAIN),
    "greedy": Way("greedy", _PLAIN),
    "directional": _sgr("directional"),
    f"directional{CHECKPOINTED}": _sgr("directional")._replace(checkpointed=True),
    EVERY_NTH: _sgr("directional", every=EVERY),
    "fused": _sgr("fused"),
    "autograd": _sgr("autograd"),
    PUBLISHED: _sgr("autograd")._replace(published=True),
}
# Where there are streams: elsewhere they are the same as without.
GPU_WAYS = {"directional, overlapping": _sgr("directional", overlap=True)}


def ways(device: str = "cpu") -> dict[str, Way]:
    """By name. Methods that have no other, as those of plug-ins, go by their own, with their default options."""
    named = {way.method for way in WAYS.values()}
    others = {name: Way(name) for name in methods.names() if name not in named}
    return WAYS | (GPU_WAYS if device == "cuda" else {}) | others


class Step:
    """Training steps by one method; each leaves its gradients in ``.grad``, and nothing is updated.

    A call takes as many as there are kinds of them: a lazy method reconciles in one of several, greedy training has a
    phase for every module.

    Args:
        network: shared; the method has modules of its own around the same blocks and heads.
        sample: inputs (B, C, H, W).

    Attributes:
        steps: that a call takes.

    Raises:
        UsageError: the method is not defined on the network.
    """

    def __init__(self, way: Way, network: Network, sample: Tensor) -> None:
        self.method = way.make()
        parts = network.whole() if methods.is_whole(way.method) else network
        modules = [LocalModule(module.body, module.head, module.features) for module in parts]
        self.network = Network(modules, network.image_shape, network.num_classes)
        if way.checkpointed:
            self.network.checkpoint_blocks()
        methods.prepare(self.method, self.network, sample)
        self.network.to(sample.device)
        self.phases = methods.phases(self.method, self.network)
        self.each = way.options.get("every", 1)
        self.steps = self.phases * self.each

    def __call__(self, x: Tensor, y: Tensor) -> None:
        for _ in self.one_by_one(x, y):
            pass

    def one_by_one(self, x: Tensor, y: Tensor, update: methods.Update = methods.no_update) -> Iterator[list[Tensor]]:
        """The steps of a call, one after the other: the losses of each."""
        for phase in range(self.phases):
            methods.begin_epoch(self.method, phase, 1)
            for _ in range(self.each):
                self.network.zero_grad()
                yield self.method.step(self.network, x, y, update)
        if self.phases > 1:  # modules that are done with are in evaluation mode
            self.network.train()


class Inputs(NamedTuple):
    """Of one module in the middle of a step."""

    x: Tensor
    y: Tensor
    delta_pre: Tensor | None


def module_inputs(modules: Iterable[LocalModule], x: Tensor, y: Tensor) -> list[Inputs]:
    """What every module is given in a step of Algorithm 1, or of any other method: it is the same."""
    inputs, delta_pre, method = [], None, WAYS[PUBLISHED].make()
    for module in modules:
        inputs.append(Inputs(x, y, delta_pre))
        step = method.module_step(module, x, y, None, last=False)
        module.zero_grad()
        x, delta_pre = step.output, step.delta_out
    return inputs


def gradient(network: nn.Module) -> Tensor:
    """Of all parameters, one after another."""
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def sgr_gradient(module: LocalModule, inputs: Inputs, method: methods.Method, backend: str | None = None) -> Tensor:
    """Of all parameters, of the SGR term alone."""
    total = []
    for delta_pre in (inputs.delta_pre, None):
        module.zero_grad()
        torch.manual_seed(0)  # the same dropout
        with sk.backend(backend) if backend else contextlib.nullcontext():
            method.module_step(module, inputs.x, inputs.y, delta_pre, last=True)
        total.append(gradient(module))
    module.zero_grad()
    return total[0] - total[1]


Truth = list[tuple[Inputs, Tensor]]  # of all modules but the first


def truth(network: Network, x: Tensor, y: Tensor) -> Truth:
    """The SGR gradients of Algorithm 1 on the reference kernels, and what the modules are given."""
    pairs, method = zip(network, module_inputs(network, x, y), strict=True), WAYS[PUBLISHED].make()
    return [(inputs, sgr_gradient(module, inputs, method, "reference")) for module, inputs in list(pairs)[1:]]


def require_agreement(name: str, step: Step, truth: Truth, limit: float = ALLOWED["float32"]) -> dict[int, float]:
    """Errors of the SGR gradients of all modules but the first, which is 1; WrongResult above the limit."""
    errors = {}
    for number, (inputs, exact) in enumerate(truth, start=2):
        found = sgr_gradient(step.network[number - 1], inputs, step.method) / step.each
        errors[number] = require_error_below(limit, f"{name} in module {number}", found, exact)
    return errors
