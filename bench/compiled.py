"""CPU benchmark of the directional engine on compiled modules: what compiling costs once, and what a step takes then.

    python -m sgr_bench.compiled [--networks resnet50 ...] [--batch 4] [--repeats 5] [--threads 2] [--out FILE.json]

Body and head of the second module of each network are compiled without graph breaks (``fullgraph=True``). The
warm-up is the first step, which compiles the recorded and the replayed pass. Gradients are compared with those of the
same engine on the module as it is, where the two draw the same random numbers: without dropout.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .networks import CLASSES, NETWORKS, LocalModule, modules
from .step import local_step, module_inputs, zero_grad
from .timing import interleaved, parse, report


def without_randomness(module: LocalModule) -> None:
    for part in module:
        for layer in part.modules():
            if isinstance(layer, nn.Dropout) or type(layer).__name__ == "StochasticDepth":
                layer.p = 0.0


def measure(name: str, batch: int, repeats: int, image_size: int = 224) -> dict[str, Any]:
    description = NETWORKS[name]
    x, y = torch.randn(batch, 3, image_size, image_size), torch.randint(CLASSES, (batch,))
    network = modules(description, description.cuts, x[:1])
    module, (x, delta_pre) = network[1], module_inputs(network[:2], x, y)[1]
    without_randomness(module)
    compiled = LocalModule(*(torch.compile(part, fullgraph=True) for part in module))

    def run(parts: LocalModule, delta: Tensor | None) -> Tensor:
        zero_grad([module])
        local_step(parts, x, y, delta, "directional", last=True)
        return torch.cat([p.grad.flatten() for part in module for p in part.parameters() if p.grad is not None])

    expected, started = run(module, delta_pre), time.perf_counter()
    cosine = torch.nn.functional.cosine_similarity(run(compiled, delta_pre).double(), expected.double(), dim=0)
    warm_up = time.perf_counter() - started
    if not cosine > 0.99:
        raise SystemExit(f"{name}: the compiled module has another gradient (cosine {float(cosine):.4f})")
    runs = {
        "eager, plain": partial(run, module, None),
        "eager, directional": partial(run, module, delta_pre),
        "compiled, plain": partial(run, compiled, None),
        "compiled, directional": partial(run, compiled, delta_pre),
    }
    seconds = {key: round(value, 4) for key, value in interleaved(runs, repeats).items()}
    return {"network": name, "batch": batch, "cosine": round(float(cosine), 6), "warm_up": round(warm_up, 1), **seconds}


def main() -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50", "vit_small", "swin_tiny"])
        parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
        parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")

    args = parse(__doc__, options)
    rows = []
    for name in args.networks:
        rows.append(measure(name, args.batch, args.repeats))
        print(json.dumps(rows[-1]), flush=True)
    report(args, "python -m sgr_bench.compiled", rows)


if __name__ == "__main__":
    main()
