"""The directional engine on compiled modules: what compiling costs once, and what a step takes then.

Body and head of the second module of each network are compiled without graph breaks (``fullgraph=True``). The warm-up
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
from .methods import ALLOWED, Inputs, gradient, local_step, module_inputs, zero_grad
from .networks import NETWORKS, LocalModule, modules
from .timing import interleaved

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50", "vit_small", "swin_tiny"])
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    for name in ["resnet32"] if args.quick else args.networks:
        selection = f"--networks {name} --batch {args.batch} --repeats {args.repeats}"
        module, inputs = _second_module(name, args)
        compiled = LocalModule(*(torch.compile(part, fullgraph=True) for part in module))
        facts = {"network": name, "batch": args.batch, **_warm_up(name, module, compiled, inputs)}
        plain = inputs._replace(delta_pre=None)
        steps = {
            f"{code}, {method}": partial(_step, module, parts, given)
            for code, parts in (("eager", module), ("compiled", compiled))
            for method, given in (("plain local", plain), ("directional", inputs))
        }
        for method, timing in interleaved(steps, args.repeats, args.device).items():
            yield selection, {**facts, "method": method, **timing._asdict()}


def _second_module(name: str, args: argparse.Namespace) -> tuple[LocalModule, Inputs]:
    x, y = NETWORKS[name].inputs(args.batch, args.device)
    parts = modules(NETWORKS[name], 3, x)
    for layer in (layer for part in parts[1] for layer in part.modules()):
        if isinstance(layer, nn.Dropout | StochasticDepth):
            layer.p = 0.0
    return parts[1], module_inputs(parts[:2], x, y)[1]


def _warm_up(name: str, module: LocalModule, compiled: LocalModule, inputs: Inputs) -> Row:
    expected, started = _step(module, module, inputs), time.perf_counter()
    gradients = _step(module, compiled, inputs)
    seconds = time.perf_counter() - started
    error = require_error_below(ALLOWED["float32"], f"compiled {name}", gradients, expected)
    return {"error": error, "warm_up": seconds}


def _step(module: LocalModule, parts: LocalModule, inputs: Inputs) -> Tensor:
    """Gradients of ``module``, whose parameters ``parts`` share."""
    zero_grad([module])
    local_step(parts, inputs, "directional", need_delta_out=False)
    return gradient([module])


def line(row: Row) -> str:
    name = f"{row['network']}, batch {row['batch']}, {row['method']}"
    return f"{name}: {row['seconds']:.4f} s ({row['repeats']} times; warm-up of compiled code {row['warm_up']:.0f} s)"
