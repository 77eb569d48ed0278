"""How well one more pass along v gives the gradient of Algorithm 1, at the start and at the end of training.

Small networks of four kinds, in two modules, are trained on CIFAR-10 images with SGR (autograd engine) until they know
more than 90% of them, so that the norms of the gradients spread as they do in practice. Deep ones, in three modules,
are trained as plain local learning does. Then the SGR gradient of a module, all parameters together, is compared with
that of the autograd engine in float64, or float32 for the deep ones. What precision alone does is shown beside it: the
autograd engine in the same precision.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sgr_train.methods.sgr import local_step
from sgr_train.networks.network import LocalModule, Network
from torch import Tensor

import sgr_kernels as sk

from . import zoo
from .checks import cosine, relative_error
from .precisions import PRECISIONS, in_precision

WEIGHT, EPOCHS, KNOWN = 0.1, 150, 0.93
# Of the SGR loss in the comparison: the autograd engine rounds its gradient together with that of the local loss, and
# its double backward overflows in float16.
LARGE_WEIGHT, WEIGHT_IN_FLOAT16 = 100.0, 1.0
LOSS_SCALE = 2.0**8  # with float16

Row = dict[str, Any]


class _Case(NamedTuple):
    """A network and how it is trained; a batch is also what engines are compared on.

    Attributes:
        modules: K.
        compared: numbers of the modules, from 1, of which gradients are compared.
        truth: the dtype that is exact enough.
        images: how many are trained on; None: those of the option.
        weight: of SGR in training.
    """

    modules: int
    image_size: int
    batch: int
    compared: tuple[int, ...]
    truth: torch.dtype
    images: int | None
    epochs: int
    rate: float
    weight: float


_SMALL = _Case(2, 32, 64, (2,), torch.float64, None, EPOCHS, 2e-3, WEIGHT)
_DEEP = _Case(3, 64, 16, (2, 3), torch.float32, 64, 10, 3e-4, 0.0)
CASES = dict.fromkeys(zoo.SMALL, _SMALL) | {
    "resnet32": _DEEP._replace(image_size=32, batch=64, images=256),
    **dict.fromkeys(("resnet50", "vit_s_16", "swin_t"), _DEEP),
}


class _Probe(NamedTuple):
    """A module in the middle of a step."""

    module: LocalModule
    x: Tensor
    y: Tensor
    delta_pre: Tensor
    floor: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=pathlib.Path, required=True, help="npz of CIFAR-10 (train_images, train_labels)")
    parser.add_argument("--images", type=int, default=512, help="training images of small networks (default 512)")
    parser.add_argument("--floor", type=float, default=0.3, help="relative floor of both engines (default 0.3)")
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in args.networks:
        case = CASES[name]
        images, epochs = (128, 1) if args.quick else (case.images or args.images, case.epochs)
        torch.manual_seed(0)
        x, y = (tensor.to(args.device) for tensor in _cifar10(args.data, images, case.image_size))
        network = zoo.create(name, case.modules, image_size=case.image_size).to(args.device)
        common = {"network": name, "images": images, "relative_floor": args.floor}
        precisions = " ".join(args.precisions)
        selection = f"--data {args.data} --images {args.images} --floor {args.floor} --networks {name}"
        for when in ("at init", "trained"):
            known = _train(network, x, y, case, args.floor, epochs) if when == "trained" else None
            for precision in args.precisions:
                for row in _agreements(network, x[: case.batch], y[: case.batch], case, args.floor, precision):
                    found = {**common, "when": when, "train_accuracy": known, "precision": precision, **row}
                    yield f"{selection} --precisions {precisions}", found


def _cifar10(path: pathlib.Path, count: int, size: int) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        images, labels = (torch.as_tensor(file[f"train_{name}"][:count]) for name in ("images", "labels"))
    x = images.permute(0, 3, 1, 2).float() / 255
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    return x if size == x.shape[-1] else F.interpolate(x, size=size, mode="bilinear"), labels.long().flatten()


def _train(network: Network, x: Tensor, y: Tensor, case: _Case, floor: float, epochs: int) -> float:
    """Until more than 90% of the images are known; their share."""
    optimizer = torch.optim.Adam(network.parameters(), case.rate)
    known = 0.0
    for _ in range(epochs):
        for batch in torch.randperm(len(x), device=x.device).split(case.batch):
            optimizer.zero_grad()
            features, delta = x[batch], None
            for module in network:
                step = _step(module, features, y[batch], delta, floor, case.weight, engine="autograd")
                features, delta = step.output, step.delta_out if case.weight else None
            optimizer.step()
        known = _accuracy(network, x, y)
        if known > KNOWN:
            break
    return round(known, 4)


@torch.no_grad()
def _accuracy(network: Network, x: Tensor, y: Tensor) -> float:
    return float((copy.deepcopy(network).eval()(x).argmax(1) == y).float().mean())


def _step(module, x, y, delta: Tensor | None, floor: float, weight: float, **options) -> sk.LocalStep:
    settings = {"weight": weight, "reduction": "batchmean", "relative_floor": floor}
    return local_step(module, x, y, delta, **settings, **options)


def _agreements(network: Network, x: Tensor, y: Tensor, case: _Case, floor: float, precision: str) -> Iterator[Row]:
    for number, probe in enumerate(_probes(network, x, y, floor, precision), start=2):
        if number not in case.compared:
            continue
        with in_precision("float32", x.device.type):
            wide = _in(case.truth, probe)
            exact = _sgr_gradient(wide, "float32", engine="autograd")
            spread = _spread(wide)
        with in_precision(precision, x.device.type):
            found = {None: _sgr_gradient(probe, precision, engine="autograd")}
            found |= {order: _sgr_gradient(probe, precision, engine="directional", order=order) for order in (1, 2)}
        for order, gradient in found.items():
            what = {"engine": "directional", "order": order} if order else {"engine": "autograd"}
            against = str(case.truth).removeprefix("torch.")
            yield {"module": number, **what, "against": against, "spread": spread, **_agreement(gradient, exact)}


def _probes(network: Network, x: Tensor, y: Tensor, floor: float, precision: str) -> Iterator[_Probe]:
    """Of the second module and those after it, as they come up in a step of this precision."""
    delta = None
    for module, following in itertools.pairwise(network):
        with in_precision(precision, x.device.type):
            torch.manual_seed(0)
            step = _step(
                copy.deepcopy(module), x, y, None, floor, WEIGHT, engine="autograd", grad_scale=_scale(precision)
            )
        x, delta = step.output, step.delta_out
        yield _Probe(following, x, y, delta, floor)


def _sgr_gradient(probe: _Probe, precision: str, engine: str, order: int = 1) -> Tensor:
    """Of all parameters, for a weight of 1, without that of the local loss."""
    results = []
    weight, scale = WEIGHT_IN_FLOAT16 if precision == "float16" else LARGE_WEIGHT, _scale(precision)
    for target, name in ((probe.delta_pre, engine), (None, "autograd")):
        parts = copy.deepcopy(probe.module)
        torch.manual_seed(0)  # the same dropout
        options = {"engine": name, "grad_scale": scale, "order": order if name == "directional" else 1}
        _step(parts, probe.x, probe.y, target, probe.floor, weight, **options)
        gradients = [p.grad for p in parts.parameters() if p.grad is not None]
        results.append(torch.cat([gradient.double().flatten() / scale for gradient in gradients]))
    return (results[0] - results[1]) / weight


def _scale(precision: str) -> float:
    return LOSS_SCALE if precision == "float16" else 1.0


def _in(dtype: torch.dtype, probe: _Probe) -> _Probe:
    wide = copy.deepcopy(probe.module).to(dtype)
    return _Probe(wide, probe.x.to(dtype), probe.y, probe.delta_pre.to(dtype), probe.floor)


def _spread(probe: _Probe) -> float:
    """Largest over smallest |delta_b|."""
    leaf = probe.x.detach().requires_grad_()
    module = copy.deepcopy(probe.module)
    norms = torch.autograd.grad(module.head(module.body(leaf), probe.y), leaf)[0].float().flatten(1).norm(dim=1)
    return float(norms.max() / norms.min())


def _agreement(gradient: Tensor, truth: Tensor) -> dict[str, float | None]:
    """None: not finite, as the double backward of Algorithm 1 may be in float16."""
    found = {"cosine": cosine(gradient, truth), "relative_error": relative_error(gradient, truth)}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def line(row: Row) -> str:
    options = f", order {row['order']}" if "order" in row else ""
    against = f"{row['engine']}{options} against {row['against']}"
    place = f"{row['network']} module {row['module']} {row['when']}"
    name = f"{place}, {row['precision']}, spread {row['spread']:.0f}"
    if row["cosine"] is None:
        return f"{name}, {against}: not finite"
    return f"{name}, {against}: cosine {row['cosine']:.5f}, error {row['relative_error']:.4f}"
