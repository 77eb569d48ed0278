"""Time and peak memory of one training step: back-propagation, local learning, SGR with and without a double backward.

For every network, whole steps of all methods of the zoo and of plug-ins, and for its modules after the first, whose
steps reconcile, plain local learning, the directional engine and Algorithm 1. All are run interleaved in one process.
A step leaves its gradients in ``.grad``, as the backward pass of BP does; nothing is updated, in none of them. Greedy
training is the mean step of its phases, passes through frozen modules included, lazy SGR that of steps of which one
reconciles. A method that is not defined on a network says why.

Every method is held to what its class says of it first (see ``claims``). SGR gradients of every module are compared
with those of Algorithm 1 on the reference kernels, in float32, and gradients with checkpointing with those without.
What is wrong or raises is reported and not timed; the exit status is then 1.

In bfloat16 (autocast) images and convolutions are channels_last. float32 is float32, not TF32. On a GPU whole steps are
timed a second time as CUDA graphs ("captured"), whose gradients are compared with those of the eager step.

Memory is the peak of the tensors that a step makes, gradients included, parameters not; of a compiled method it is
known on a GPU only, of a captured one it is not. "Algorithm 1, compiled" is forward, backward and double backward
traced as one function and compiled. That takes minutes on a CPU, and is done for some of the networks, and not with
--quick.
"""

from __future__ import annotations

import argparse
import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from sgr_train.errors import UsageError
from sgr_train.memory.live import peak_bytes
from sgr_train.networks.network import LocalModule, Network
from torch import Tensor

from . import zoo
from .checks import REPORTED, SAME, WrongResult, reason, require_error_below
from .claims import require_claims
from .stored import CAPTURED
from .timing import Timing, interleaved, repeats_for, replayed
from .traced import compiled_algorithm1
from .ways import Inputs, Step, Truth, gradient, module_inputs, require_agreement, truth, ways

COMPILED = "Algorithm 1, compiled"
METHODS_OF_MODULES = ["plain local", "directional", "Algorithm 1"]
DEFAULTS = {"resnet32": [3, 16], "plainnet4": [4], "plainnet8": [8], "plainnet16": [16]}
NETWORKS = ["resnet50", "resnet32", "vit_s_16", "swin_t", "plainnet4", "plainnet8", "plainnet16"]
# By the number of classes.
BATCHES = {"cpu": {10: 128, 1000: 8}, "cuda": {10: 128, 1000: 256}}
PRECISIONS = {"cpu": {10: "float32", 1000: "float32"}, "cuda": {10: "float32", 1000: "bfloat16"}}
CAPTURED_ON = ("cuda",)
FEW = 16  # images on which gradients are compared in float32 where the step itself is in bfloat16

Row = dict[str, Any]


class Run(NamedTuple):
    """What is timed: ``steps`` training steps of a network."""

    run: Callable[[], object]
    network: Network | LocalModule
    steps: int = 1


Runs = dict[str, Run]


class Case(NamedTuple):
    network: str
    count: int
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.network}, batch {self.batch}, K={self.count}, {self.precision}"


COMPILES = [("resnet32", 3), ("plainnet4", 4), ("vit_s_16", 3)]  # by default: others take five minutes and more


def add_options(parser: argparse.ArgumentParser) -> None:
    add_cases(parser, [*NETWORKS, *zoo.of_plugins()])
    parser.add_argument("--methods", nargs="+", choices=[*ways("cuda"), COMPILED], help="of whole steps (default: all)")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for one comparison (default 60)")
    parser.add_argument("--whole", action="store_true", help="whole steps alone, without those of modules")


def add_cases(parser: argparse.ArgumentParser, networks: list[str]) -> None:
    """Options of :func:`cases`."""
    parser.add_argument("--networks", nargs="+", type=zoo.network_name, default=networks)
    parser.add_argument("--modules", type=int, nargs="+", help="K (default 3; resnet32 3 16; plainnet: one a layer)")
    parser.add_argument("--batch", type=int, help="images (default 128 of CIFAR's size; 8 of ImageNet's, GPU: 256)")
    precision = "default float32; on a GPU bfloat16 for images of ImageNet's size"
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help=precision)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    if args.quick:
        args.budget = min(args.budget, 5.0)
    for case in cases(args):
        selection = f"--networks {case.network} --modules {case.count} --batch {case.batch}"
        for row in _case_rows(args, case):
            yield f"{selection} --precision {case.precision}", row
        _release_memory(args.device)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    for name in ["resnet32", "plainnet4"] if args.quick else args.networks:
        counts, classes = args.modules or DEFAULTS.get(name) or [zoo.at_most(name, 3)], zoo.classes(name)
        batch = args.batch or (32 if args.quick else BATCHES[args.device][classes])
        for count in counts[:1] if args.quick else counts:
            yield Case(name, count, batch, args.precision or PRECISIONS[args.device][classes])


def _case_rows(args: argparse.Namespace, case: Case) -> Iterator[Row]:
    """Of a failure: what it is about, and why."""
    facts = {**case._asdict(), "module": None, "method": None}
    try:
        for row in _measured(args, case):
            why = {key: f"{_name(case, row)}: {row[key]}" for key in ("failure", "undefined") if key in row}
            yield {**facts, **row, **why}
    except UsageError as error:
        yield {**facts, "undefined": f"{case}: {error}"}
    except REPORTED as error:  # without the network, or BP, there is nothing to compare
        yield {**facts, "failure": f"{case}: {reason(error)}"}


def _measured(args: argparse.Namespace, case: Case) -> Iterator[Row]:
    network, x, y = created(case, args.device)
    facts = {"cuts": network.cuts, "image_size": network.image_shape[1]}
    few = FEW if case.precision == "bfloat16" else None
    exact = functools.cache(lambda: truth(network, x[:few], y[:few]))
    runs: Runs = {}
    errors: dict[str, dict[int, float]] = {}
    for name in _methods(args, case):
        try:
            runs[name], errors[name] = _run(case, name, network, x, y, exact)
        except UsageError as error:
            yield {"method": name, "undefined": str(error)}
        except REPORTED as error:
            yield {"method": name, "failure": reason(error)}
    repeats = 1
    for method, measured in _compare(args, runs):
        yield {**facts, "method": method, **measured, "error": max(errors[method].values(), default=None)}
        repeats = measured.get("repeats", repeats)
    if args.device in CAPTURED_ON:
        yield from ({**facts, **row} for row in _captured(args, case, runs, repeats))
    if case.count == 3 and not args.whole:
        with _autocast(case, args.device):
            given = module_inputs(network, x, y)
        for number, (module, inputs) in enumerate(zip(network, given, strict=True), start=1):
            if number > 1:
                for method, measured in _compare(args, _module_runs(case, module, inputs, number == len(network))):
                    error = errors.get(method, {}).get(number)
                    yield {**facts, "module": number, "method": method, **measured, "error": error}


def created(case: Case, device: str) -> tuple[Network, Tensor, Tensor]:
    """The network and inputs for it, in the memory format that the precision is timed in."""
    network = zoo.create(case.network, case.count, device=device)
    x, y = zoo.inputs(case.network, case.batch, device)
    if case.precision == "bfloat16":
        network, x = (each.to(memory_format=torch.channels_last) for each in (network, x))
    return network, x, y


def _methods(args: argparse.Namespace, case: Case) -> list[str]:
    names = list(ways(args.device))
    names += [COMPILED] if args.methods or ((case.network, case.count) in COMPILES and not args.quick) else []
    return [name for name in names if name in (args.methods or names)]


def _run(
    case: Case, name: str, network: Network, x: Tensor, y: Tensor, exact: Callable[[], Truth]
) -> tuple[Run, dict[int, float]]:
    """What is timed, and the errors of its SGR gradients by module.

    Raises:
        UsageError: the method is not defined on this network.
        WrongResult: it does not do what its class says; its gradient is not that of Algorithm 1 or, of one that is
            checkpointed, that without.
    """
    if name == COMPILED:
        with _autocast(case, x.device.type):
            return Run(in_precision(case, x.device.type, compiled_algorithm1(network, x, y)), network), {}
    way = ways("cuda")[name]
    step = Step(way, network, x)
    require_claims(step, network, x, y)
    run = _whole(case, step, x, y)
    if way.checkpointed:
        without = _whole(case, Step(way._replace(checkpointed=False), network, x), x, y)
        _require_same(case, _gradient(run), _gradient(without))
    return run, require_agreement(name, step, exact()) if way.method == "sgr" else {}


def _whole(case: Case, step: Step, x: Tensor, y: Tensor) -> Run:
    return Run(in_precision(case, x.device.type, functools.partial(step, x, y)), step.network, step.steps)


def _module_runs(case: Case, module: LocalModule, inputs: Inputs, last: bool) -> Runs:
    def step(method: str) -> None:
        module.zero_grad()
        methods[method].module_step(module, *inputs, last=last)

    methods = {name: ways()[name].make() for name in METHODS_OF_MODULES}
    device = inputs.x.device.type
    return {name: Run(in_precision(case, device, functools.partial(step, name)), module) for name in methods}


def in_precision(case: Case, device: str, step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with _autocast(case, device):
            step()

    return run


def _autocast(case: Case, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=case.precision == "bfloat16")


def _compare(args: argparse.Namespace, runs: Runs) -> Iterator[tuple[str, Row]]:
    """Time and memory of every step; of those that raise or are wrong, first, why."""
    peaks, seconds = {}, 0.0
    for name, run in runs.items():
        _release_memory(args.device)
        try:
            if args.device == "cuda":
                run.run()  # what a first step sets up once
            # What compiled code allocates on a CPU, no dispatcher sees.
            unseen = name == COMPILED and args.device == "cpu"
            started = time.perf_counter()
            peak = None if unseen else peak_bytes(run.run, args.device)
            if not unseen and not gradient(run.network).isfinite().all():
                raise WrongResult("its gradient is not finite")
            peaks[name] = peak
            seconds += time.perf_counter() - started
        except UsageError as error:
            yield name, {"undefined": str(error)}
        except REPORTED as error:
            yield name, {"failure": reason(error)}
        run.network.zero_grad()
    repeats = repeats_for(seconds, args.budget)
    timings = interleaved({name: runs[name].run for name in peaks}, repeats, args.device)
    for name, timing in timings.items():
        yield name, {**_of_one_step(runs[name], timing), "peak_bytes": peaks[name]}


def _captured(args: argparse.Namespace, case: Case, runs: Runs, repeats: int) -> Iterator[Row]:
    """Whole steps as CUDA graphs, one after another: each keeps the memory of a step of its own."""
    for name, run in runs.items():
        method = f"{name}{CAPTURED}"
        _release_memory(args.device)
        try:
            yield {"method": method, **_replay(args, case, run, repeats), "peak_bytes": None}
        except REPORTED as error:
            yield {"method": method, "failure": reason(error)}


def _replay(args: argparse.Namespace, case: Case, run: Run, repeats: int) -> Row:
    """Time of a replay, and the error of its gradient: an empty graph would be a fast one."""
    expected = _gradient(run)
    replay = replayed(lambda: run.run)
    for parameter in run.network.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    torch.manual_seed(0)
    replay()
    error = _require_same(case, gradient(run.network), expected)
    return {**_of_one_step(run, interleaved({"replay": replay}, repeats, args.device)["replay"]), "error": error}


def _require_same(case: Case, found: Tensor, expected: Tensor) -> float:
    return require_error_below(SAME[case.precision], "its gradient", found, expected)


def _gradient(run: Run) -> Tensor:
    torch.manual_seed(0)  # the same dropout
    run.network.zero_grad()
    run.run()
    return gradient(run.network)


def _of_one_step(run: Run, timing: Timing) -> Row:
    """The mean of the steps that a run takes."""
    return {**timing._asdict(), **{name: getattr(timing, name) / run.steps for name in ("seconds", "low", "high")}}


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
