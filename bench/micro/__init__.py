"""Every operator of the library: time, and how near to the limits of this device, for growing sizes.

Providers: the backends that run on the device (cpu; triton, cuda) and on a GPU, where there is a choice, the library as
it chooses ("default"); "eager" (what a user of torch writes, in the dtype of the inputs; for sgr_loss as Algorithm 1 is
published) and "torch.compile" of that; "reference": plain torch, which for sgr_loss, sgr_residual, sgr_shift and
cross_entropy is float64 inside, and too slow to be timed on large tensors. torch.compile has no double backward and is
left out there. ReLU layers have "library GEMM" or "library conv", the bare products that cannot be avoided, and
"Algorithm 1", a double backward through the layer and its head. gate_bits has "torch.relu" and its backward, which
record nothing.

Modes: "forward", with a graph for the backward pass; "backward"; "double backward", what Algorithm 1 needs of the
derivative of <tangent, gradient for the input>; "full", forward and backward. linear_relu_sgr, conv2d_relu_sgr and
linear_relu_step (SGR and the rest of a local step) have the curvatures "none", Eq. 35 in three products, and "exact",
in five. Algorithm 1 computes the exact gradient, also where it stands beside "none".

The result of every provider is compared with float64 before it is timed. One that is wrong or fails is reported and
not timed, and the exit status is 1. "error" is the relative error; a kernel may have 1e-5 in float32, a rounding in
half precision, and twice the error of plain torch. Where sums cancel, what torch itself computes in float32 may be
worse than that.

"bytes" is what every implementation has to read and write, "flops" those of the products it has to compute; "bound"
says which of the two takes longer at the limits of this device ("sgr-bench roofline"), measured first, and "fraction"
is that least time over the time taken. It is above 1 where another limit holds: a CPU keeps small tensors in its
caches, reading alone is faster than copying, and products of some shapes are faster than square ones.

On a GPU the sizes that the goals of this project name (sgr_bench.goals) come first.

"timed" is "graph" on a GPU where a CUDA graph can hold the run (kernels alone), else "events"; there, entering a
backend adds some microseconds.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .. import cases, goals, roofline
from ..cases.case import Size
from ..checks import REPORTED, reason
from . import cross_entropy, gate_bits, others, relu_layers, relu_sgr, sgr_loss, step
from .case import Case, Op
from .grid import Shape, parse, text, timed
from .measurement import Measurement, measure
from .providers import NAMES, forget_compiled

_WRITTEN: dict[str, Op] = {
    **sgr_loss.OPS,
    **relu_layers.OPS,
    **relu_sgr.OPS,
    **step.OPS,
    **cross_entropy.OPS,
    **gate_bits.OPS,
}
GENERIC: dict[str, Op] = others.all_but(each for op in _WRITTEN.values() for each in op.operators)
OPS: dict[str, Op] = {**_WRITTEN, **GENERIC}
MODES = tuple(dict.fromkeys(mode for op in OPS.values() for mode in op.modes))
DTYPES = ("float32", "bfloat16")
BUDGET = {"cpu": 0.8, "cuda": 0.3}  # seconds for one case: a GPU is steadier

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS), metavar="OP", help=", ".join(OPS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--providers", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--shapes", nargs="+", type=parse, metavar="SHAPE", help="of those measured, such as 128x4096")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    limits = roofline.limits(args.device, args.quick)
    nothing = True
    for name, mode, shape, dtype, build in _cases(args):
        key = {"op": name, "mode": mode, "shape": list(shape), "dtype": dtype}
        what = f"{name} {mode} {text(shape)} {dtype}"
        try:
            case = build()
        except REPORTED as error:
            failed = {**key, "provider": "all", "failure": f"{what}: {reason(error)}"}
            yield _selection(failed, args.quick), failed
            continue
        providers = [provider for provider in NAMES if provider in case.ways and provider in args.providers]
        if not providers:
            continue
        nothing = False
        options = (getattr(torch, dtype), args.device, 0.1 if args.quick else BUDGET[args.device])
        for provider, result in measure(what, case, providers, *options):
            row = {**key, "provider": provider}
            found = {"failure": result} if isinstance(result, str) else _row(case, dtype, result, limits)
            yield _selection(row, args.quick), {**row, **found}
    if nothing:
        print("sgr-bench micro: nothing that is measured here has all that was selected", file=sys.stderr)
        raise SystemExit(2)


def line(row: Row) -> str:
    shape = text(row["shape"])
    rate = f"{row['gbps']:7.2f} GB/s" if row["bound"] == "memory" else f"{row['tflops']:5.3f} TFLOP/s"
    what = f"{row['op']:16} {row['mode']:15} {shape:>14} {row['dtype']:8} {row['provider']:13}"
    return f"{what} {1e3 * row['seconds']:9.4f} ms {rate} ({row['fraction']:.2f}), error {row['error']:.0e}"


def _cases(args: argparse.Namespace) -> Iterator[tuple[str, str, Shape, str, Callable[[], Case]]]:
    """What was selected, and a function that makes it. The modes of a size share their inputs."""
    for name, size, dtype in _sizes(args):
        op = OPS[name]
        forget_compiled()
        inputs = functools.cache(partial(_inputs, op, size.shape, dtype, args.device))
        for mode in op.modes:
            if mode in args.modes and not (mode == "double backward" and size.once):
                yield name, mode, size.shape, dtype, lambda op=op, mode=mode, inputs=inputs: op.case(mode, inputs())


def _sizes(args: argparse.Namespace) -> list[tuple[str, Size, str]]:
    """Those selected, with their operators and dtypes; on a GPU those that the goals name come first."""
    found = [
        (name, size, dtype)
        for name in args.ops
        for size, dtype in timed(cases.of(OPS[name].operators[0]).sizes, args.device, args.quick)
        if dtype in args.dtypes and (args.shapes is None or size.shape in args.shapes)
    ]
    first = [(each.op, each.shape, each.dtype) for each in (goals.FIRST if args.device == "cuda" else ())]
    places = {each: place for place, each in enumerate(first)}
    return sorted(found, key=lambda each: places.get((each[0], each[1].shape, each[2]), len(first)))


def _inputs(op: Op, shape: Shape, dtype: str, device: str) -> Any:
    torch.manual_seed(0)  # the same inputs whatever else is measured
    return op.inputs(shape, getattr(torch, dtype), device)


def _row(case: Case, dtype: str, result: Measurement, limits: roofline.Limits) -> Row:
    seconds = result.timing.seconds
    memory = case.bytes / limits.copy_bytes_per_second
    products = case.flops / limits.gemm_flops_per_second[dtype]
    return {
        **result.timing._asdict(),
        "timed": result.timed,
        "error": result.error,
        "bytes": case.bytes,
        "flops": case.flops,
        "gbps": case.bytes / seconds / 1e9,
        "tflops": case.flops / seconds / 1e12,
        "bound": "compute" if products > memory else "memory",
        "fraction": max(memory, products) / seconds,
    }


def _selection(row: Row, quick: bool) -> str:
    words = ["--ops", row["op"], "--modes", row["mode"], "--providers", row["provider"]]
    words += ["--shapes", text(row["shape"]), "--dtypes", row["dtype"]]
    return shlex.join(words + ["--quick"] * quick)
