"""How well one more pass along v gives the gradient of Algorithm 1, at the start and at the end of training.

Two-module networks of four kinds are trained on CIFAR-10 images with SGR (autograd engine) until they know more than
90% of them, so that the norms of the gradients spread as they do in practice. Then the SGR gradient of the second
module, all parameters together, is compared with that of the autograd engine in the same precision. What precision
alone does is shown beside it: the autograd engine compared with itself in float64.
"""

from __future__ import annotations

import argparse
import copy
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import sgr_kernels as sk

from .checks import cosine, relative_error
from .kinds import KINDS
from .networks import LocalModule

WEIGHT, EPOCHS, KNOWN, PROBE = 0.1, 150, 0.93, 64
# Of the SGR loss in the comparison: the autograd engine rounds its gradient together with that of the local loss.
LARGE_WEIGHT = 100.0
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}  # of autocast
LOSS_SCALE = 2.0**8  # with float16

Row = dict[str, Any]


class _Probe(NamedTuple):
    """The second module in the middle of a step."""

    module: LocalModule
    x: Tensor
    y: Tensor
    delta_pre: Tensor
    floor: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, required=True, help="npz of CIFAR-10 (train_images, train_labels)")
    parser.add_argument("--images", type=int, default=512, help="training images (default 512)")
    parser.add_argument("--floor", type=float, default=0.3, help="relative floor of both engines (default 0.3)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    images, epochs = (128, 1) if args.quick else (args.images, EPOCHS)
    for kind in args.kinds:
        torch.manual_seed(0)
        x, y = (tensor.to(args.device) for tensor in _cifar10(args.data, images))
        network = [LocalModule(*(part.to(args.device) for part in module)) for module in KINDS[kind]()]
        common = {"network": kind, "images": images, "relative_floor": args.floor}
        selection = f"--data {args.data} --images {images} --floor {args.floor} --kinds {kind}"
        for when in ("at init", "trained"):
            known = _train(network, x, y, args.floor, epochs) if when == "trained" else None
            for precision in DTYPES:
                for row in _agreements(network, x[:PROBE], y[:PROBE], args.floor, precision):
                    yield selection, {**common, "when": when, "train_accuracy": known, "precision": precision, **row}


def _cifar10(path: pathlib.Path, count: int) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        images, labels = (torch.as_tensor(file[f"train_{name}"][:count]) for name in ("images", "labels"))
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), labels.long().flatten()


def _train(network: list[LocalModule], x: Tensor, y: Tensor, floor: float, epochs: int) -> float:
    """Until more than 90% of the images are known; their share."""
    parameters = [p for module in network for part in module for p in part.parameters()]
    optimizer = torch.optim.Adam(parameters, 2e-3)
    known = 0.0
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(PROBE):
            optimizer.zero_grad()
            features, delta = x[batch], None
            for module in network:
                step = _step(module, features, y[batch], delta, floor, WEIGHT, engine="autograd")
                features, delta = step.output, step.delta_out
            optimizer.step()
        known = _accuracy(network, x, y)
        if known > KNOWN:
            break
    return round(known, 4)


@torch.no_grad()
def _accuracy(network: list[LocalModule], x: Tensor, y: Tensor) -> float:
    for module in network:
        x = copy.deepcopy(module.body).eval()(x)
    logits = copy.deepcopy(network[-1].head).eval().logits(x)
    return float((logits.argmax(1) == y).float().mean())


def _step(module, x, y, delta: Tensor | None, floor: float, weight: float, **options) -> sk.LocalStep:
    settings = {"weight": weight, "reduction": "batchmean", "relative_floor": floor}
    return sk.local_step(*module, x, y, delta, **settings, **options)


def _agreements(network: list[LocalModule], x: Tensor, y: Tensor, floor: float, precision: str) -> Iterator[Row]:
    with torch.autocast(x.device.type, DTYPES[precision], enabled=precision != "float32"):
        torch.manual_seed(0)
        first = _step(_copy(network[0]), x, y, None, floor, WEIGHT, engine="autograd")
        probe = _Probe(network[1], first.output, y, first.delta_out, floor)
        published = _sgr_gradient(probe, engine="autograd")
        found = {order: _sgr_gradient(probe, engine="directional", order=order) for order in (1, 2)}
        spread = _spread(probe)
    exact = _sgr_gradient(_in_float64(probe), engine="autograd")
    yield {"engine": "autograd", "against": "float64", "spread": spread, **_agreement(published, exact)}
    for order, gradient in found.items():
        for against, truth in (("autograd", published), ("float64", exact)):
            what = {"engine": "directional", "order": order, "against": against, "spread": spread}
            yield {**what, **_agreement(gradient, truth)}


def _sgr_gradient(probe: _Probe, engine: str, order: int = 1) -> Tensor:
    """Of all parameters, without that of the local loss."""
    results = []
    for target, name in ((probe.delta_pre, engine), (None, "autograd")):
        parts = _copy(probe.module)
        torch.manual_seed(0)  # the same dropout
        scale = LOSS_SCALE if _autocast_dtype(probe.x.device.type) == torch.float16 else 1.0
        options = {"engine": name, "grad_scale": scale, "order": order if name == "directional" else 1}
        _step(parts, probe.x, probe.y, target, probe.floor, LARGE_WEIGHT, **options)
        gradients = [p.grad for part in parts for p in part.parameters() if p.grad is not None]
        results.append(torch.cat([gradient.double().flatten() / scale for gradient in gradients]))
    return results[0] - results[1]


def _autocast_dtype(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _copy(module: LocalModule) -> LocalModule:
    return LocalModule(*copy.deepcopy(tuple(module)))


def _in_float64(probe: _Probe) -> _Probe:
    wide = LocalModule(*(part.double() for part in _copy(probe.module)))
    return _Probe(wide, probe.x.double(), probe.y, probe.delta_pre.double(), probe.floor)


def _spread(probe: _Probe) -> float:
    """Largest over smallest |delta_b|."""
    leaf = probe.x.detach().requires_grad_()
    body, head = _copy(probe.module)
    norms = torch.autograd.grad(head(body(leaf), probe.y), leaf)[0].float().flatten(1).norm(dim=1)
    return float(norms.max() / norms.min())


def _agreement(gradient: Tensor, truth: Tensor) -> dict[str, float | None]:
    """None: not finite, as the double backward of Algorithm 1 often is in float16."""
    found = {"cosine": cosine(gradient, truth), "relative_error": relative_error(gradient, truth)}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def line(row: Row) -> str:
    options = f", order {row['order']}" if "order" in row else ""
    against = f"{row['engine']}{options} against {row['against']}"
    name = f"{row['network']} {row['when']}, {row['precision']}, spread {row['spread']:.0f}"
    if row["cosine"] is None:
        return f"{name}, {against}: not finite"
    return f"{name}, {against}: cosine {row['cosine']:.5f}, error {row['relative_error']:.4f}"
