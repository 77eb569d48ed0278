"""CPU benchmark of closed-form SGR: a linear ReLU block and a BP-free conv PlainNet against Algorithm 1.

    python -m sgr_bench.relu_block [--threads 2] [--out FILE.json]

The block is measured against the bare products it consists of, three for Eq. 35 and five for the exact gradient, and
against Algorithm 1 with a double backward. All run interleaved in one process; medians and their ratios are printed,
and FLOPs in units of B m n (Table 8). The gradients of the PlainNet are compared with Algorithm 1 in float64 first.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sgr_kernels as sk
import sgr_kernels.flops  # noqa: F401  (registers the formulas of the operators)
from sgr_kernels import reference

from .live_memory import peak_live_bytes
from .timing import interleaved, parse, report

Module = tuple[nn.Module, nn.Module]  # body, head
WEIGHT = 0.3  # times the number of elements of a sample, because Algorithm 1 averages over them


def algorithm1(modules: list[Module], x: Tensor, y: Tensor) -> None:
    """The published recipe with ``.backward()``, for a stack of local modules."""
    delta = None
    for body, head in modules:
        weight = WEIGHT * x[0].numel()
        _, _, x, delta = reference.algorithm1_step(body, head, x, y, delta, weight=weight)


def fused(modules: list[Module], x: Tensor, y: Tensor, curvature: str) -> None:
    delta = None
    for index, (body, head) in enumerate(modules):
        options = {"weight": WEIGHT * x[0].numel(), "curvature": curvature, "need_delta_out": index + 1 < len(modules)}
        step = sk.local_step(body, head, x, y, delta, engine="fused", **options)
        x, delta = step.output, step.delta_out


def gradients(run: Callable, modules: list[Module], *data: Tensor) -> list[Tensor]:
    copies = [(copy.deepcopy(body).double(), copy.deepcopy(head).double()) for body, head in modules]
    run(copies, *(t.double() if t.is_floating_point() else t for t in data))
    return [p.grad for module in copies for part in module for p in part.parameters()]


def check(modules: list[Module], x: Tensor, y: Tensor) -> None:
    exact = gradients(lambda *args: fused(*args, "exact"), modules, x, y)
    for mine, theirs in zip(exact, gradients(algorithm1, modules, x, y), strict=True):
        error = float((mine - theirs).norm() / theirs.norm())
        if not error < 1e-9:
            raise SystemExit(f"the fused engine is wrong: relative error {error:.1e} of a gradient")


class _NoModules(contextlib.nullcontext):
    """In the place of the module tracker of FlopCounterMode, whose hooks cannot bear torch.autograd.grad for a leaf."""

    parents = {"Global"}


def flops(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        run()
    return counter.get_total_flops()


def linear_block(batch: int = 512, inputs: int = 2048, outputs: int = 2048, classes: int = 10) -> dict:
    body = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
    head = sk.CrossEntropyHead(sk.ETFClassifier(classes, outputs))
    x, delta, a = torch.randn(batch, inputs), torch.randn(batch, inputs), torch.randn(batch, outputs)
    y, weight = torch.randint(classes, (batch,)), body[0].weight.detach()

    def products(count: int) -> list[Tensor]:
        results = [x @ weight.T, a @ weight, a.T @ x]
        return results if count == 3 else [*results, delta @ weight.T, a.T @ delta]

    def step(curvature: str) -> None:
        body.zero_grad()
        options = {"weight": WEIGHT * inputs, "engine": "fused", "curvature": curvature, "need_delta_out": False}
        sk.local_step(body, head, x, y, delta, **options)

    def published() -> None:
        body.zero_grad()
        reference.algorithm1_step(body, head, x, y, delta, weight=WEIGHT * inputs)

    providers = {
        "3 products": lambda: products(3),
        "5 products": lambda: products(5),
        "fused, Eq. 35": lambda: step("none"),
        "fused, exact": lambda: step("exact"),
        "Algorithm 1": published,
    }
    seconds = interleaved(providers, 15)
    return {
        "case": "linear ReLU block",
        "batch, inputs, outputs": [batch, inputs, outputs],
        "median_ms": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "flops_per_Bmn": {name: round(flops(run) / (batch * inputs * outputs), 2) for name, run in providers.items()},
        "eq35_over_3_products": round(seconds["fused, Eq. 35"] / seconds["3 products"], 2),
        "exact_over_5_products": round(seconds["fused, exact"] / seconds["5 products"], 2),
        "eq35_speedup_over_algorithm1": round(seconds["Algorithm 1"] / seconds["fused, Eq. 35"], 2),
        "exact_speedup_over_algorithm1": round(seconds["Algorithm 1"] / seconds["fused, exact"], 2),
    }


def conv_plainnet(batch: int = 128, channels: tuple[int, ...] = (32, 64, 128, 128), classes: int = 10) -> dict:
    modules: list[Module] = []
    previous = 3
    for index, width in enumerate(channels):
        conv = nn.Conv2d(previous, width, 3, stride=1 if index == 0 else 2, padding=1)
        head = sk.CrossEntropyHead(sk.ETFClassifier(classes, width))
        modules.append((nn.Sequential(conv, nn.ReLU()), head))
        previous = width
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(classes, (batch,))
    check(modules, x[:8], y[:8])
    providers = {
        "fused, Eq. 35": lambda: fused(modules, x, y, "none"),
        "fused, exact": lambda: fused(modules, x, y, "exact"),
        "Algorithm 1": lambda: algorithm1(modules, x, y),
    }
    seconds = interleaved(providers, 11)
    peak = {name: peak_live_bytes(run) for name, run in providers.items()}
    return {
        "case": "BP-free conv PlainNet, 32 x 32 images",
        "batch, channels": [batch, *channels],
        "median_ms": {name: round(1e3 * s, 1) for name, s in seconds.items()},
        "peak_live_MiB": {name: round(size / 2**20, 1) for name, size in peak.items()},
        "eq35_speedup_over_algorithm1": round(seconds["Algorithm 1"] / seconds["fused, Eq. 35"], 2),
        "exact_speedup_over_algorithm1": round(seconds["Algorithm 1"] / seconds["fused, exact"], 2),
        "eq35_memory_over_algorithm1": round(peak["fused, Eq. 35"] / peak["Algorithm 1"], 2),
        "exact_memory_over_algorithm1": round(peak["fused, exact"] / peak["Algorithm 1"], 2),
    }


def main() -> None:
    args = parse(__doc__)
    rows = []
    for case in (linear_block, conv_plainnet):
        rows.append(case())
        print(json.dumps(rows[-1], indent=1), flush=True)
    report(args, "python -m sgr_bench.relu_block", rows)


if __name__ == "__main__":
    main()
