"""CPU benchmark of a training step: time and peak memory of SGR without and with a double backward, module by module.

    python -m sgr_bench.step [--networks resnet50 ...] [--batch 8] [--repeats 3] [--threads 2] [--out FILE.json]

For every module of a network: plain local learning, SGR by the directional engine, and Algorithm 1. For the whole step:
the same, SGR at every fourth step, and global back-propagation. Times are medians of interleaved rounds in one process;
memory is the peak of live tensors (gradients included, parameters not). Gradients are compared with Algorithm 1 first.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import sgr_kernels as sk

from .live_memory import peak_live_bytes
from .networks import CLASSES, NETWORKS, LocalModule, modules
from .timing import interleaved, parse, report

WEIGHT = 1e6  # with reduction "mean": some percent of the gradient, so that rounding does not hide it
EVERY = 4
ENGINES = {"directional": "directional", "Algorithm 1": "autograd"}


def local_step(module: LocalModule, x: Tensor, y: Tensor, delta_pre: Tensor | None, engine: str, last: bool):
    with sdpa_kernel(SDPBackend.MATH if engine == "autograd" and delta_pre is not None else _ATTENTION):
        return sk.local_step(*module, x, y, delta_pre, weight=WEIGHT, engine=engine, need_delta_out=not last)


_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def step_of(network: list[LocalModule], x: Tensor, y: Tensor, engine: str | None) -> None:
    """One step of the whole network; ``engine`` None: plain local learning."""
    zero_grad(network)
    delta_pre = None
    for k, module in enumerate(network):
        last = engine is None or k + 1 == len(network)
        step = local_step(module, x, y, delta_pre if engine else None, engine or "autograd", last)
        x, delta_pre = step.output, step.delta_out


def lazy_steps(network: list[LocalModule], x: Tensor, y: Tensor) -> None:
    for index in range(EVERY):
        step_of(network, x, y, "directional" if index == 0 else None)


def back_propagation(network: list[LocalModule], x: Tensor, y: Tensor) -> None:
    zero_grad(network)
    for body, _ in network:
        x = body(x)
    network[-1].head(x, y).backward()


def zero_grad(network: list[LocalModule]) -> None:
    for module in network:
        for part in module:
            part.zero_grad()


def module_inputs(network: list[LocalModule], x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """x and delta_pre of every module."""
    inputs, delta_pre = [], None
    for module in network:
        inputs.append((x, delta_pre))
        step = local_step(module, x, y, None, "autograd", last=False)
        x, delta_pre = step.output, step.delta_out
    return inputs


def check(module: LocalModule, x: Tensor, y: Tensor, delta_pre: Tensor) -> float:
    """Cosine of the gradient of the SGR term with that of Algorithm 1."""
    total = {}
    for name in (None, *ENGINES):
        zero_grad([module])
        torch.manual_seed(0)
        local_step(module, x, y, delta_pre if name else None, ENGINES.get(name, "autograd"), last=True)
        gradients = [p.grad for part in module for p in part.parameters() if p.grad is not None]
        total[name] = torch.cat([gradient.flatten() for gradient in gradients])
    mine, theirs = total["directional"] - total[None], total["Algorithm 1"] - total[None]
    cosine = float(torch.nn.functional.cosine_similarity(mine.double(), theirs.double(), dim=0))
    if not cosine > 0.99:
        raise SystemExit(f"the directional engine is wrong: cosine {cosine:.4f} with Algorithm 1")
    return cosine


def compare(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    peaks = {}
    for name, run in runs.items():
        gc.collect()
        peaks[name] = peak_live_bytes(run)
    seconds = interleaved(runs, repeats)
    return {name: {"peak_bytes": peaks[name], "seconds": round(seconds[name], 4)} for name in runs}


def measure(name: str, batch: int, repeats: int, image_size: int = 224) -> dict[str, Any]:
    description = NETWORKS[name]
    x, y = torch.randn(batch, 3, image_size, image_size), torch.randint(CLASSES, (batch,))
    network = modules(description, description.cuts, x[:1])
    rows = []
    for k, (module, (x_k, delta_pre)) in enumerate(zip(network, module_inputs(network, x, y), strict=True)):
        if delta_pre is None:
            continue
        last = k + 1 == len(network)

        def run(engine: str | None, module=module, x_k=x_k, delta_pre=delta_pre, last=last) -> None:
            zero_grad([module])
            local_step(module, x_k, y, delta_pre if engine else None, engine or "autograd", last or engine is None)

        cosine = check(module, x_k, y, delta_pre)
        runs = {"plain": partial(run, None), **{n: partial(run, e) for n, e in ENGINES.items()}}
        rows.append({"module": k + 1, "cosine": round(cosine, 6), **compare(runs, repeats)})
    zero_grad(network)
    whole = {
        "plain": partial(step_of, network, x, y, None),
        **{n: partial(step_of, network, x, y, e) for n, e in ENGINES.items()},
        "BP": partial(back_propagation, network, x, y),
        f"{EVERY} steps, directional every {EVERY}th": partial(lazy_steps, network, x, y),
    }
    step = compare(whole, repeats)
    lazy = step.pop(f"{EVERY} steps, directional every {EVERY}th")
    step[f"directional every {EVERY}th"] = {**lazy, "seconds": round(lazy["seconds"] / EVERY, 4)}
    size = {"batch": batch, "image_size": image_size}
    return {"network": name, **size, "cuts": description.cuts, "modules": rows, "step": step}


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50", "vit_small", "swin_tiny"])
        parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
        parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")

    args = parse(__doc__, options)
    rows = []
    for name in args.networks:
        rows.append(measure(name, args.batch, args.repeats))
        print(json.dumps(rows[-1], indent=1), flush=True)
    report(args, "python -m sgr_bench.step", rows)


if __name__ == "__main__":
    main()
