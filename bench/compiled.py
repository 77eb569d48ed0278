"""The directional engine on compiled modules: what compiling costs once, and what a step takes then.

Networks are the small ones of the part ``gradients`` and those of the part ``step``, in three modules. Body and head
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
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .checks import require_error_below
from .kinds import KINDS
from .methods import ALLOWED, Inputs, gradient, module_inputs, module_step, zero_grad
from .networks import NETWORKS, LocalModule, modules
from .timing import interleaved

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [*KINDS, *NETWORKS]
    parser.add_argument("--networks", nargs="+", choices=names, default=[*KINDS, "vit_small"])
    parser.add_argument("--batch", type=int, help="images (default 4, for small networks 64)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in ["vit"] if args.quick else args.networks:
        batch = args.batch or (64 if name in KINDS else 4)
        selection = f"--networks {name} --batch {batch} --repeats {args.repeats}"
        module, inputs = _second_module(name, batch, args.device)
        torch.compiler.reset()  # or other shapes than those of the network before would count as changing ones
        compiled = LocalModule(*(torch.compile(part, fullgraph=True) for part in module))
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
    if name in KINDS:
        x, y = NETWORKS["resnet32"].inputs(batch, device)  # images of the same size
        with x.device:
            parts = KINDS[name]()
    else:
        x, y = NETWORKS[name].inputs(batch, device)
        parts = modules(NETWORKS[name], 3, x)
    for layer in (layer for part in parts[1] for layer in part.modules()):
        if isinstance(layer, nn.Dropout | StochasticDepth):
            layer.p = 0.0
    return parts[1], module_inputs(parts[:2], x, y)[1]


def _warm_up(name: str, module: LocalModule, compiled: LocalModule, inputs: Inputs) -> Row:
    expected, started = _step(module, module, inputs), time.perf_counter()
    with torch.compiler.config.patch(force_disable_caches=True):  # of earlier runs
        gradients = _step(module, compiled, inputs)
    seconds = time.perf_counter() - started
    error = require_error_below(ALLOWED["float32"], f"compiled {name}", gradients, expected)
    return {"error": error, "warm_up": seconds}


def _step(module: LocalModule, parts: LocalModule, inputs: Inputs) -> Tensor:
    """Gradients of ``module``, whose parameters ``parts`` share."""
    zero_grad([module])
    module_step(parts, inputs, "directional", need_delta_out=False)
    return gradient([module])


def line(row: Row) -> str:
    name = f"{row['network']}, batch {row['batch']}, {row['method']}"
    return f"{name}: {row['seconds']:.4f} s ({row['repeats']} times; warm-up of compiled code {row['warm_up']:.0f} s)"
