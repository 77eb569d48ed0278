"""The directional engine on compiled modules: what compiling costs once, and what a step takes then.

Networks are the small ones of the part ``gradients``, in two modules, and others, in three. Body and head
of the second module of each are compiled without graph breaks (``fullgraph=True``). The warm-up
is the first step, which compiles the recorded and the replayed pass. Gradients are compared with those of the same
engine on the module as it is; dropout and stochastic depth are off, as compiled code draws other random numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from sgr_train.networks.network import LocalModule
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from . import zoo
from .checks import require_error_below
from .timing import interleaved
from .ways import ALLOWED, WAYS, Inputs, gradient, module_inputs

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", type=zoo.network_name, default=[*zoo.SMALL, "vit_s_16"])
    parser.add_argument("--batch", type=int, help="images (default 4, for small networks 64)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in ["vit_cifar"] if args.quick else args.networks:
        batch = args.batch or (64 if name in zoo.SMALL else 4)
        selection = f"--networks {name} --batch {batch} --repeats {args.repeats}"
        module, inputs = _second_module(name, batch, args.device)
        torch.compiler.reset()  # or other shapes than those of the network before would count as changing ones
        compiled = LocalModule(*(torch.compile(part, fullgraph=True) for part in (module.body, module.head)))
        facts = {"network": name, "batch": batch, **_warm_up(name, module, compiled, inputs)}
        plain = inputs._replace(delta_pre=None)
        steps = {
            f"{code}, {method}": partial(_step, module, parts, given)
            for code, parts in (("eager", module), ("compiled", compiled))
            for method, given in (("plain local", plain), ("directional", inputs))
        }
        for method, timing in interleaved(steps, args.repeats, args.device).items():
            yield selection, {**facts, "method": method, **timing._asdict()}


def _second_module(name: str, batch: int, device: str) -> tuple[LocalModule, Inputs]:
    x, y = zoo.inputs(name, batch, device)
    parts = list(zoo.create(name, 2 if name in zoo.SMALL else 3, device=device))[:2]
    for layer in parts[1].modules():
        if isinstance(layer, nn.Dropout | StochasticDepth):
            layer.p = 0.0
    return parts[1], module_inputs(parts, x, y)[1]


def _warm_up(name: str, module: LocalModule, compiled: LocalModule, inputs: Inputs) -> Row:
    expected, started = _step(module, module, inputs), time.perf_counter()
    with torch.compiler.config.patch(force_disable_caches=True):  # of earlier runs
        gradients = _step(module, compiled, inputs)
    seconds = time.perf_counter() - started
    error = require_error_below(ALLOWED["float32"], f"compiled {name}", gradients, expected)
    return {"error": error, "warm_up": seconds}


def _step(module: LocalModule, parts: LocalModule, inputs: Inputs) -> Tensor:
    """Gradients of ``module``, whose parameters ``parts`` share."""
    module.zero_grad()
    WAYS["directional"].make().module_step(parts, *inputs, last=True)
    return gradient(module)


def line(row: Row) -> str:
    name = f"{row['network']}, batch {row['batch']}, {row['method']}"
    return f"{name}: {row['seconds']:.4f} s ({row['repeats']} times; warm-up of compiled code {row['warm_up']:.0f} s)"
