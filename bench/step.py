"""Time and peak memory of one training step: back-propagation, local learning, SGR with and without a double backward.

For every network, whole steps of all methods, and for its modules after the first, whose steps reconcile, plain local
learning, the directional engine and Algorithm 1. All are run interleaved in one process. The SGR gradient of every
module is compared with that of Algorithm 1 on the reference kernels first, and that of checkpointing with BP's.

Memory is the peak of the tensors that a step makes, gradients included, parameters not; of a compiled method it is
known on a GPU only. "Algorithm 1, compiled" is forward, backward and double backward traced as one function and
compiled. That takes minutes on a CPU, and is done for some of the networks, and not with --quick.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgr_kernels.engines import automatic

from .checks import require_error_below
from .live_memory import peak_bytes
from .methods import (
    ALLOWED,
    ENGINES,
    EVERY,
    EVERY_NTH,
    METHODS,
    Inputs,
    Modules,
    gradient,
    module_inputs,
    module_step,
    require_agreement,
    zero_grad,
)
from .networks import NETWORKS, LocalModule, cuts_of, modules
from .timing import interleaved, repeats_for
from .traced import compiled_algorithm1

COMPILED = "Algorithm 1, compiled"
METHODS_OF_MODULES = ["plain local", "directional", "Algorithm 1"]
DEFAULTS = {"resnet32": [3, 16], "plainnet4": [4], "plainnet8": [8], "plainnet16": [16]}
NETWORK_NAMES = ["resnet50", "vit_small", "swin_tiny", "resnet32", "plainnet4", "plainnet8", "plainnet16"]
BATCHES = {"cpu": {10: 128, 1000: 8}, "cuda": {10: 128, 1000: 256}}  # by the number of classes

Row = dict[str, Any]


class Case(NamedTuple):
    network: str
    count: int
    batch: int


COMPILES = [("resnet32", 3), ("plainnet4", 4), ("vit_small", 3)]  # by default: others take five minutes and more


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORK_NAMES)
    parser.add_argument("--modules", type=int, nargs="+", help="K (default 3; resnet32 3 16; plainnet: one a layer)")
    parser.add_argument("--batch", type=int, help="images (default 128 of CIFAR's size; 8 of ImageNet's, GPU: 256)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, COMPILED], help="of whole steps (default: all)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison (default 60)")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    if args.quick:
        args.budget = min(args.budget, 5.0)
    for case in _cases(args):
        half = args.precision == "bfloat16"
        with torch.autocast(args.device, torch.bfloat16, enabled=half):
            for row in _case_rows(args, case):
                selection = f"--networks {case.network} --modules {case.count} --batch {case.batch}"
                yield f"{selection} --precision {args.precision}", row


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    for name in ["resnet32", "plainnet4"] if args.quick else args.networks:
        counts = args.modules or DEFAULTS.get(name, [3])
        batch = args.batch or (32 if args.quick else BATCHES[args.device][NETWORKS[name].classes])
        for count in counts[:1] if args.quick else counts:
            yield Case(name, count, batch)


def _case_rows(args: argparse.Namespace, case: Case) -> Iterator[Row]:
    network = NETWORKS[case.network]
    x, y = network.inputs(case.batch, args.device)
    parts = modules(network, case.count, x)
    facts = {**case._asdict(), "cuts": cuts_of(parts), "image_size": network.image_size, "precision": args.precision}
    engines = ["directional", *(["fused"] if all(automatic(body) == "fused" for body, _ in parts) else [])]
    errors = require_agreement(parts, x, y, engines, ALLOWED[args.precision])
    whole = _whole_steps(args, case, engines, parts, x, y)
    for method, measured in _compare(args, whole).items():
        if method == EVERY_NTH:
            measured = {**measured, **{key: measured[key] / EVERY for key in ("seconds", "low", "high")}}
        worst = max((error for (_, name), error in errors.items() if name == method), default=None)
        yield {**facts, "module": None, "method": method, **measured, "error": worst}
    if case.count == 3:
        for index, inputs in enumerate(module_inputs(parts, x, y)[1:], start=2):
            for method, measured in _compare(args, _module_steps(parts[index - 1], inputs, index < 3)).items():
                yield {**facts, "module": index, "method": method, **measured, "error": errors.get((index, method))}


def _whole_steps(
    args: argparse.Namespace, case: Case, engines: list[str], parts: Modules, x: Tensor, y: Tensor
) -> dict[str, Callable[[], object]]:
    """The methods asked for that apply to this network, as functions without arguments, checked."""
    names = [name for name in METHODS if name in engines or name not in ENGINES or name == "Algorithm 1"]
    wanted = args.methods or [
        *names,
        *([COMPILED] if (case.network, case.count) in COMPILES and not args.quick else []),
    ]
    steps = {name: partial(METHODS[name], parts, x, y) for name in names}
    require_error_below(
        1e-3, "checkpointing", _gradient(parts, steps["BP + checkpointing"]), _gradient(parts, steps["BP"])
    )
    if COMPILED in wanted:
        steps[COMPILED] = compiled_algorithm1(parts, x, y)
    zero_grad(parts)
    return {name: step for name, step in steps.items() if name in wanted}


def _module_steps(module: LocalModule, inputs: Inputs, need_delta_out: bool) -> dict[str, Callable[[], object]]:
    def step(method: str) -> None:
        zero_grad([module])
        module_step(module, inputs, method, need_delta_out and method != "plain local")

    return {method: partial(step, method) for method in METHODS_OF_MODULES}


def _gradient(parts: Modules, step: Callable[[], object]) -> Tensor:
    torch.manual_seed(0)  # the same dropout
    zero_grad(parts)
    step()
    return gradient(parts)


def _compare(args: argparse.Namespace, steps: dict[str, Callable[[], object]]) -> dict[str, Row]:
    peaks, started = {}, time.perf_counter()
    for name, step in steps.items():
        gc.collect()
        # What compiled code allocates on a CPU, no dispatcher sees.
        unseen = name == COMPILED and args.device == "cpu"
        peaks[name] = None if unseen else peak_bytes(step, args.device)
    repeats = repeats_for(time.perf_counter() - started, args.budget)
    timings = interleaved(steps, repeats, args.device)
    return {name: {**timing._asdict(), "peak_bytes": peaks[name]} for name, timing in timings.items()}


def line(row: Row) -> str:
    where = "whole step" if row["module"] is None else f"module {row['module']}"
    memory = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 2**20:.0f} MiB"
    name = f"{row['network']}, batch {row['batch']}, K={row['count']}"
    return f"{name}, {where}, {row['method']}: {row['seconds']:.4f} s ({row['repeats']} times){memory}"
