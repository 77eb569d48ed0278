"""Local learning, with and without successive gradient reconciliation (the paper's Algorithm 1)."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import sgr_kernels as sk

from ..errors import UsageError, one_line
from ..networks.network import LocalModule, Network
from ..networks.statistics import frozen_statistics
from ..options import LARGEST_FLOAT, Count, NotNegative
from . import Update, no_update, register
from .facts import BP_FREE, Facts

Engine = Literal["auto", "autograd", "fused", "directional"]
Reduction = Literal["mean", "batchmean", "sum"]


def local_step(module: LocalModule, x: Tensor, y: Tensor, delta_pre: Tensor | None, **options) -> sk.LocalStep:
    """:func:`sgr_kernels.local_step`, whose refusals name the flag."""
    # The double backward of Algorithm 1 has no flash attention to go through.
    twice = delta_pre is not None and options["engine"] == "autograd"
    try:
        with sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext():
            return sk.local_step(module.body, module.head, x, y, delta_pre, **options)
    except ValueError as error:
        raise UsageError(f"--engine {options['engine']}: {one_line(error)}") from error


@register("layerwise")
class Layerwise:
    """Every module on the loss of its own head, all at every step.

    Args:
        engine: how gradients are computed; see sgr_kernels.local_step. fused builds no autograd graph of the bodies.
    """

    grad_scale = 1.0
    facts = Facts(BP_FREE, "yes", BP_FREE, "1 forward, 1 backward by module", "local heads", "one module")

    def __init__(self, *, engine: Engine = "auto") -> None:
        self.engine = engine

    def why_not_compiled(self, network: Network) -> str | None:
        if all((sk.engines.automatic(m.body) if self.engine == "auto" else self.engine) == "fused" for m in network):
            return "engine fused computes layers in closed form and calls no block; --engine directional calls them"
        return None

    def module_step(self, module: LocalModule, x: Tensor, y: Tensor, delta_pre: None, last: bool) -> sk.LocalStep:
        options = {"engine": self.engine, "grad_scale": self.grad_scale}
        return local_step(module, x, y, None, weight=0.0, need_delta_out=False, **options)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        losses, delta_pre = [], None
        for k, module in enumerate(network):
            step = self.module_step(module, x, y, delta_pre, last=k + 1 == len(network))
            update(k)
            x, delta_pre = step.output, step.delta_out
            losses.append(step.loss)
        return losses


@register("reforward")
class Reforward(Layerwise):
    """Layerwise, but every module gets what the updated modules before it give (Tables 3 and 4).

    Args:
        engine: as of layerwise.
    """

    facts = Layerwise.facts._replace(passes="2 forward, 1 backward by module")

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        losses = []
        for k, module in enumerate(network):
            losses.append(self.module_step(module, x, y, None, last=k + 1 == len(network)).loss)
            update(k)
            if k + 1 < len(network):
                with torch.no_grad(), frozen_statistics(module):  # statistics move once a step
                    x = module.body(x)
        return losses


RHO = 0.03  # which costs little where SGR does not help: docs/lambda.md


class Counter(nn.Module):
    """Number of steps taken; as a module it is kept in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state


@register("sgr")
class SGR(Layerwise):
    """Layerwise with successive gradient reconciliation (Eq. 5).

    Args:
        rho: norm of the SGR gradient of a module's body over that of its local gradient: lambda follows training
            (sgr_kernels.RelativeWeight), and the reduction makes no difference.
        weight: lambda, the weight of the SGR loss, in the place of rho, as the paper has it. Give the reduction with
            it, which is batchmean if left out (mean in sgr_kernels.local_step and SGRLoss): lambda_mean = n *
            lambda_batchmean gives the same gradient, for n elements a sample (n = 8192: 0.1 under batchmean is 819.2
            under mean).
        reduction: how the SGR loss is averaged. batchmean: over samples (Eq. 6 for each); mean: over samples and
            elements (Algorithm 1); sum: not at all.
        normalize: compare directions, as Algorithm 1 does. Off, the gradients themselves are compared (Eq. 6 as
            printed).
        every: reconcile at every so many steps only, with lambda times as much; 1 is the paper.
        relative_floor: fade samples out of the SGR loss whose gradient norm is below this fraction of the batch's rms;
            0 is the paper.
        engine: how the SGR gradient is computed; see sgr_kernels.local_step. auto: fused where it applies, else
            directional.
        curvature: exact is the gradient of the SGR loss; none takes the upstream gradient for a constant (Eq. 35),
            which is cheaper, for engine fused.
        overlap: on a GPU, go on with the next module while the second pass of one runs: see sgr_kernels.overlapping.
    """

    facts = Layerwise.facts._replace(passes="1 forward, 1 backward and a derivative by module")

    def __init__(
        self,
        *,
        rho: NotNegative = RHO,
        weight: NotNegative | None = None,
        reduction: Reduction = "batchmean",
        normalize: bool = True,
        every: Count = 1,
        relative_floor: NotNegative = 0.0,
        engine: Engine = "auto",
        curvature: Literal["exact", "none"] = "exact",
        overlap: bool = False,
    ) -> None:
        if curvature == "none" and engine != "fused":
            raise UsageError(f"--curvature must be exact without --engine fused, got 'none' with --engine {engine}")
        if weight is not None and rho != RHO:
            raise UsageError(f"--weight and --rho exclude each other, got {weight} and {rho}: drop one")
        flag, size = ("rho", rho) if weight is None else ("weight", weight)
        if size > LARGEST_FLOAT / every:
            raise UsageError(f"--{flag} must be at most {LARGEST_FLOAT / every:g} with --every {every}, got {size}")
        super().__init__(engine=engine)
        self.every, self.counter, self.reconcile = every, Counter(), True
        self.overlap = overlap
        self.weight = None if weight is None else weight * every
        self.rho = rho * every
        self.options = {
            "reduction": reduction,
            "normalize": normalize,
            "relative_floor": relative_floor,
            "engine": engine,
            "curvature": curvature,
        }

    def why_not_compiled(self, network: Network) -> str | None:
        if self.engine == "autograd":
            return "--engine autograd differentiates twice, which compiled blocks cannot; --engine directional does not"
        return super().why_not_compiled(network)

    def why_not_captured(self) -> str | None:
        return "steps with and without reconciliation are two graphs; take --every 1" if self.every > 1 else None

    def prepare(self, network: Network, sample: Tensor) -> None:
        network[0].aux = self.counter
        if self.weight is None:
            for module in list(network)[1:]:
                module.aux = sk.RelativeWeight(self.rho).to(sample.device)

    def observe(self, network: Network) -> dict[str, list[float]]:
        """lambda of the modules after the first, as it stands."""
        weights = (self._weight_of(module, network.mean) for module in list(network)[1:])
        return {"lambda": [float(getattr(weight, "value", weight)) for weight in weights]}

    def _weight_of(self, module: LocalModule, x: Tensor) -> float | sk.RelativeWeight:
        if self.weight is not None:
            return self.weight
        if not isinstance(module.aux, sk.RelativeWeight):  # nobody prepared the network
            module.aux = sk.RelativeWeight(self.rho).to(x.device)
        return module.aux

    def module_step(
        self, module: LocalModule, x: Tensor, y: Tensor, delta_pre: Tensor | None, last: bool
    ) -> sk.LocalStep:
        need_delta_out = self.reconcile and not last
        alone = delta_pre is None and self.weight is None
        weight = 0.0 if alone else self._weight_of(module, x)
        options = {**self.options, "weight": weight, "grad_scale": self.grad_scale}
        return local_step(module, x, y, delta_pre, need_delta_out=need_delta_out, **options)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        self.reconcile = self.counter.steps % self.every == 0
        self.counter.steps += 1
        if not self.overlap:
            return super().step(network, x, y, update)
        with sk.overlapping():
            losses = super().step(network, x, y)
        for k in range(len(network)):
            update(k)
        return losses
