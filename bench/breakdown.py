"""Where the time of a step goes: its kernels, or on a CPU its operators, by the time that all calls of each take.

For a look behind a ratio that is not what it should be. What is looked at: the local step of the linear ReLU block that
the goals name, beside the bare products in it, and whole steps of networks as in the part ``step``, eager ones. Times
are those of torch's profiler, which slows small steps down: their sums are no measurement of a step.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from . import goals, step
from .micro import OPS
from .precisions import products_in
from .ways import Step, ways

LARGEST = 15
QUICK_BLOCK = (128, 256, 256)
BARE = "library GEMM"

Run = Callable[[], object]


class Calls(NamedTuple):
    """All calls of one kernel; seconds of all of them together."""

    kernel: str
    count: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sgr_bench.breakdown", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a small block, and small steps of two networks")
    step.add_cases(parser, ["resnet50", "resnet32"])
    parser.add_argument("--methods", nargs="+", choices=ways("cuda"), default=["BP", "directional", "autograd"])
    args = parser.parse_args(argv)
    with products_in("ieee", args.device):  # float32 is float32, in convolutions on a GPU too
        for what, run in itertools.chain(_blocks(args.device, args.quick), _steps(args)):  # one at a time in memory
            print(table(what, calls(run, args.device)), flush=True)
    return 0


def table(what: str, found: Sequence[Calls]) -> str:
    """Of the kernels that take longest, and the rest together."""
    whole = sum(each.seconds for each in found)
    rest = found[LARGEST:]
    others = Calls("others", sum(each.count for each in rest), sum(each.seconds for each in rest))
    lines = [
        f"{1e3 * each.seconds:9.3f} ms {each.seconds / whole:4.0%} {each.count:5d} x {each.kernel[:100]}"
        for each in (*found[:LARGEST], *([others] if rest else []))
    ]
    return "\n".join((f"{what}: {1e3 * whole:.3f} ms", *lines))


def calls(run: Run, device: str) -> list[Calls]:
    """Those of one run, the longest first."""
    for _ in range(2):  # what first steps set up once
        run()
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        Calls(each.key, each.count, (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1e6)
        for each in profiled.key_averages()
        if each.device_type == kind
    ]
    return sorted(found, key=lambda each: -each.seconds)


def _blocks(device: str, quick: bool) -> Iterator[tuple[str, Run]]:
    block = goals.BLOCK._replace(shape=QUICK_BLOCK) if quick else goals.BLOCK
    op = OPS[block.op]
    case = op.case(block.mode, op.inputs(block.shape, getattr(torch, block.dtype), device))
    for provider in (next(iter(case.ways)), BARE):  # ours as the library chooses is the first
        yield f"{block}, {provider}", case.ways[provider].make()


def _steps(args: argparse.Namespace) -> Iterator[tuple[str, Run]]:
    for case in step.cases(args):
        network, x, y = step.created(case, args.device)
        for method in args.methods:
            one = functools.partial(Step(ways("cuda")[method], network, x), x, y)
            yield f"{case}, {method}", step.in_precision(case, args.device, one)


if __name__ == "__main__":
    sys.exit(main())
