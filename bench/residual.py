"""CPU benchmark of the residual: forward + backward of sgr_loss against eager torch and torch.compile.

    python -m sgr_bench.residual [--threads 2] [--out FILE.json]

All providers run interleaved in one process; the medians and their ratios are printed. Every provider's result is
compared with float64 first, and a wrong one ends the run.
"""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import Tensor

import sgr_kernels as sk

from .timing import interleaved, parse, report

SHAPES = [(8, 64), (128, 1024), (1024, 256), (128, 4096), (128, 16384), (64, 200704), (1, 50_000_000)]


def eager(delta: Tensor, target: Tensor) -> Tensor:
    """The residual as Algorithm 1 spells it, in float32."""
    delta = delta / torch.sqrt(torch.sum(delta**2, dim=1, keepdim=True))
    target = target / torch.sqrt(torch.sum(target**2, dim=1, keepdim=True))
    return torch.nn.functional.mse_loss(delta, target)


def gradient(loss, delta: Tensor, target: Tensor) -> Tensor:
    delta = delta.detach().requires_grad_()
    return torch.autograd.grad(loss(delta, target), delta)[0]


def check(name: str, loss, delta: Tensor, target: Tensor) -> None:
    truth = gradient(eager, delta.double(), target.double())
    error = (gradient(loss, delta, target) - truth).norm() / truth.norm()
    if not error < 1e-5:
        raise SystemExit(f"{name} is wrong at {tuple(delta.shape)}: relative error {error:.1e} of the gradient")


def measure(providers: dict, shape: tuple[int, int]) -> dict:
    delta, target = torch.randn(2, *shape).unbind(0)
    for name, loss in providers.items():
        check(name, loss, delta, target)
    repeats = max(15, min(300, int(1e7 / delta.numel())))
    medians = interleaved({name: partial(gradient, loss, delta, target) for name, loss in providers.items()}, repeats)
    return {
        "shape": shape,
        "repeats": repeats,
        "median_us": {name: round(1e6 * median, 1) for name, median in medians.items()},
        "speedup_over_eager": round(medians["eager"] / medians["sgr_loss"], 2),
        "speedup_over_compile": round(medians["torch.compile"] / medians["sgr_loss"], 2),
        "gigabytes_per_second": round(5 * 4 * delta.numel() / medians["sgr_loss"] / 1e9, 1),
    }


def main() -> None:
    args = parse(__doc__)
    providers = {"eager": eager, "torch.compile": torch.compile(eager, dynamic=False), "sgr_loss": sk.sgr_loss}
    rows = []
    for shape in SHAPES:
        rows.append(measure(providers, shape))
        print(json.dumps(rows[-1]), flush=True)
    report(args, "python -m sgr_bench.residual", rows)


if __name__ == "__main__":
    main()
