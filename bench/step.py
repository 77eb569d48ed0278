"""Time and peak memory of one training step: back-propagation, local learning, SGR with and without a double backward.

For every network, whole steps of all methods, and for its modules after the first, whose steps reconcile, plain local
learning, the directional engine and Algorithm 1. All are run interleaved in one process. The SGR gradient of every
module is compared with that of Algorithm 1 on the reference kernels first, in float32, and that of checkpointing with
BP's. What is wrong or raises is reported and not timed; the exit status is then 1.

In bfloat16 (autocast) images and convolutions are channels_last. float32 is float32, not TF32. On a GPU whole steps are
timed a second time as CUDA graphs ("captured"), whose gradients are compared with those of the eager step.

Memory is the peak of the tensors that a step makes, gradients included, parameters not; of a compiled method it is
known on a GPU only, of a captured one it is not. "Algorithm 1, compiled" is forward, backward and double backward
traced as one function and compiled. That takes minutes on a CPU, and is done for some of the networks, and not with
--quick.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from sgr_train.live_memory import peak_bytes
from torch import Tensor

from sgr_kernels.engines import automatic

from .checks import REPORTED, WrongResult, reason, require_error_below
from .methods import (
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
from .timing import interleaved, repeats_for, replayed
from .traced import compiled_algorithm1

COMPILED = "Algorithm 1, compiled"
METHODS_OF_MODULES = ["plain local", "directional", "Algorithm 1"]
DEFAULTS = {"resnet32": [3, 16], "plainnet4": [4], "plainnet8": [8], "plainnet16": [16]}
NETWORK_NAMES = ["resnet50", "resnet32", "vit_small", "swin_tiny", "plainnet4", "plainnet8", "plainnet16"]
# By the number of classes.
BATCHES = {"cpu": {10: 128, 1000: 8}, "cuda": {10: 128, 1000: 256}}
PRECISIONS = {"cpu": {10: "float32", 1000: "float32"}, "cuda": {10: "float32", 1000: "bfloat16"}}
CAPTURED_ON = ("cuda",)
# The largest relative error between two runs of one step: sums of some kernels have another order every time.
SAME = {"float32": 1e-3, "bfloat16": 5e-2}
FEW = 16  # images on which gradients are compared in float32 where the step itself is in bfloat16

Row = dict[str, Any]
Steps = dict[str, Callable[[], object]]


class Case(NamedTuple):
    network: str
    count: int
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.network}, batch {self.batch}, K={self.count}, {self.precision}"


COMPILES = [("resnet32", 3), ("plainnet4", 4), ("vit_small", 3)]  # by default: others take five minutes and more


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORK_NAMES)
    parser.add_argument("--modules", type=int, nargs="+", help="K (default 3; resnet32 3 16; plainnet: one a layer)")
    parser.add_argument("--batch", type=int, help="images (default 128 of CIFAR's size; 8 of ImageNet's, GPU: 256)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, COMPILED], help="of whole steps (default: all)")
    precision = "default float32; on a GPU bfloat16 for images of ImageNet's size"
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help=precision)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison (default 60)")
    parser.add_argument("--whole", action="store_true", help="whole steps alone, without those of modules")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in convolutions too
    if args.quick:
        args.budget = min(args.budget, 5.0)
    for case in _cases(args):
        selection = f"--networks {case.network} --modules {case.count} --batch {case.batch}"
        for row in _case_rows(args, case):
            yield f"{selection} --precision {case.precision}", row
        _release_memory(args.device)


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    for name in ["resnet32", "plainnet4"] if args.quick else args.networks:
        counts, classes = args.modules or DEFAULTS.get(name, [3]), NETWORKS[name].classes
        batch = args.batch or (32 if args.quick else BATCHES[args.device][classes])
        for count in counts[:1] if args.quick else counts:
            yield Case(name, count, batch, args.precision or PRECISIONS[args.device][classes])


def _case_rows(args: argparse.Namespace, case: Case) -> Iterator[Row]:
    """Of a failure: what it is about, and why."""
    facts = {**case._asdict(), "module": None, "method": None}
    try:
        for row in _measured(args, case):
            failure = {"failure": f"{_name(case, row)}: {row['failure']}"} if "failure" in row else {}
            yield {**facts, **row, **failure}
    except REPORTED as error:  # without the network, or BP, there is nothing to compare
        yield {**facts, "failure": f"{case}: {reason(error)}"}


def _measured(args: argparse.Namespace, case: Case) -> Iterator[Row]:
    network = NETWORKS[case.network]
    x, y = network.inputs(case.batch, args.device)
    parts = modules(network, case.count, x)
    if case.precision == "bfloat16":
        x = _channels_last(parts, x)
    facts = {"cuts": cuts_of(parts), "image_size": network.image_size}
    few = FEW if case.precision == "bfloat16" else None
    names = _methods(args, case, parts)
    errors, wrong = _agreement(parts, x[:few], y[:few], [name for name in names if name in ENGINES])
    steps: Steps = {}
    for name in names:
        try:
            if name in wrong:
                raise wrong[name]
            steps[name] = _step(case, name, parts, x, y)
        except REPORTED as error:
            yield {"method": name, "failure": reason(error)}
    repeats = 1
    for method, measured in _compare(args, parts, steps):
        worst = max((error for (_, name), error in errors.items() if name == method), default=None)
        yield {**facts, "method": method, **_of_one_step(method, measured), "error": worst}
        repeats = measured.get("repeats", repeats)
    if args.device in CAPTURED_ON:
        yield from ({**facts, **row} for row in _captured(args, case, parts, steps, repeats))
    if case.count == 3 and not args.whole:
        with _autocast(case, args.device):
            given = module_inputs(parts, x, y)
        for index, inputs in enumerate(given[1:], start=2):
            module = parts[index - 1]
            for method, measured in _compare(args, [module], _module_steps(case, module, inputs, index < 3)):
                yield {**facts, "module": index, "method": method, **measured, "error": errors.get((index, method))}


def _channels_last(parts: Modules, x: Tensor) -> Tensor:
    for part in (part for module in parts for part in module):
        part.to(memory_format=torch.channels_last)
    return x.to(memory_format=torch.channels_last)


def _methods(args: argparse.Namespace, case: Case, parts: Modules) -> list[str]:
    """Those asked for that apply to this network."""
    names = [name for name in METHODS if name != "fused" or all(automatic(body) == "fused" for body, _ in parts)]
    names += [COMPILED] if args.methods or ((case.network, case.count) in COMPILES and not args.quick) else []
    return [name for name in names if name in (args.methods or names)]


def _agreement(
    parts: Modules, x: Tensor, y: Tensor, engines: list[str]
) -> tuple[dict[tuple[int, str], float], dict[str, Exception]]:
    """Errors by module and engine; what is wrong with engines, and so with methods that use them."""
    try:
        return require_agreement(parts, x, y, engines), {}
    except REPORTED as error:
        if len(engines) == 1:
            return {}, dict.fromkeys([engines[0], *([EVERY_NTH] if engines == ["directional"] else [])], error)
    errors, wrong = {}, {}
    for engine in engines:
        found, faults = _agreement(parts, x, y, [engine])
        errors, wrong = errors | found, wrong | faults
    return errors, wrong


def _step(case: Case, name: str, parts: Modules, x: Tensor, y: Tensor) -> Callable[[], None]:
    with _autocast(case, x.device.type):
        method = compiled_algorithm1(parts, x, y) if name == COMPILED else partial(METHODS[name], parts, x, y)
    step = _in_precision(case, x.device.type, method)
    if name == "BP + checkpointing":
        _require_same(case, _gradient(parts, step), _gradient(parts, _step(case, "BP", parts, x, y)))
    return step


def _module_steps(case: Case, module: LocalModule, inputs: Inputs, need_delta_out: bool) -> Steps:
    def step(method: str) -> None:
        zero_grad([module])
        module_step(module, inputs, method, need_delta_out and method != "plain local")

    return {method: _in_precision(case, inputs.x.device.type, partial(step, method)) for method in METHODS_OF_MODULES}


def _in_precision(case: Case, device: str, step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with _autocast(case, device):
            step()

    return run


def _autocast(case: Case, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=case.precision == "bfloat16")


def _compare(args: argparse.Namespace, parts: Modules, steps: Steps) -> Iterator[tuple[str, Row]]:
    """Time and memory of every step; of those that raise or are wrong, first, the failure."""
    peaks, seconds = {}, 0.0
    for name, step in steps.items():
        _release_memory(args.device)
        try:
            if args.device == "cuda":
                step()  # what a first step sets up once
            # What compiled code allocates on a CPU, no dispatcher sees.
            unseen = name == COMPILED and args.device == "cpu"
            started = time.perf_counter()
            peak = None if unseen else peak_bytes(step, args.device)
            if not unseen and not gradient(parts).isfinite().all():
                raise WrongResult("its gradient is not finite")
            peaks[name] = peak
            seconds += time.perf_counter() - started
        except REPORTED as error:
            yield name, {"failure": reason(error)}
    zero_grad(parts)
    repeats = repeats_for(seconds, args.budget)
    timings = interleaved({name: steps[name] for name in peaks}, repeats, args.device)
    yield from ((name, {**timing._asdict(), "peak_bytes": peaks[name]}) for name, timing in timings.items())


def _captured(args: argparse.Namespace, case: Case, parts: Modules, steps: Steps, repeats: int) -> Iterator[Row]:
    """Whole steps as CUDA graphs, one after another: each keeps the memory of a step of its own."""
    for name, step in steps.items():
        method = f"{name}, captured"
        _release_memory(args.device)
        try:
            found = _of_one_step(name, _replay(args, case, parts, step, repeats))
            yield {"method": method, **found, "peak_bytes": None}
        except REPORTED as error:
            yield {"method": method, "failure": reason(error)}


def _replay(args: argparse.Namespace, case: Case, parts: Modules, step: Callable[[], object], repeats: int) -> Row:
    """Time of a replay, and the error of its gradient: an empty graph would be a fast one."""
    expected = _gradient(parts, step)
    replay = replayed(lambda: step)
    for parameter in (p for module in parts for part in module for p in part.parameters()):
        if parameter.grad is not None:
            parameter.grad.zero_()
    torch.manual_seed(0)
    replay()
    error = _require_same(case, gradient(parts), expected)
    return {**interleaved({"replay": replay}, repeats, args.device)["replay"]._asdict(), "error": error}


def _require_same(case: Case, found: Tensor, expected: Tensor) -> float:
    return require_error_below(SAME[case.precision], "its gradient", found, expected)


def _gradient(parts: Modules, step: Callable[[], object]) -> Tensor:
    torch.manual_seed(0)  # the same dropout
    zero_grad(parts)
    step()
    return gradient(parts)


def _of_one_step(method: str, measured: Row) -> Row:
    """The lazy method is run for as many steps as one of them reconciles."""
    if method != EVERY_NTH or "failure" in measured:
        return measured
    return {**measured, **{key: measured[key] / EVERY for key in ("seconds", "low", "high")}}


def _release_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def line(row: Row) -> str:
    memory = "" if row["peak_bytes"] is None else f", {row['peak_bytes'] / 2**20:.0f} MiB"
    case = Case(*(row[name] for name in Case._fields))
    return f"{_name(case, row)}: {row['seconds']:.4f} s ({row['repeats']} times){memory}"


def _name(case: Case, row: Row) -> str:
    where = "whole step" if row.get("module") is None else f"module {row['module']}"
    return f"{case}, {where}, {row['method']}"
