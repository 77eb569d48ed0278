"""What this device can do: the bytes it copies and the products it computes per second.

Copies go from sizes that fit into caches to sixteen times the last-level cache, or an eighth of the memory if that is
less; bytes are those read and those written.
Products are square, of matrices that become larger until one product takes long. The limits that micro compares with
are those of memory, from the copies that fit into no cache, and the best rate of any product.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import WrongResult, require_error_below
from .timing import interleaved, once, repeats_for

Row = dict[str, Any]

DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
GEMM_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192, 16384)}
CACHED_COPIES = (2**20, 2**24)
OUT_OF_CACHE = (4, 16)  # times the last-level cache
UNKNOWN_CACHE = 2**26
PART = 8  # of the memory, for each of two tensors: a virtual machine has the cache of its host, but not the memory


class Limits(NamedTuple):
    """What ``fraction`` of a result is a fraction of."""

    copy_bytes_per_second: float
    gemm_flops_per_second: dict[str, float]  # by the name of the dtype


def limits(device: str, quick: bool) -> Limits:
    """Measured now: copies in memory, and the best rate of a product for every dtype. Takes some seconds on a CPU."""
    beyond = min(out_of_cache(device))
    rows = list(_measured(device, quick, lambda limit, dtype, size: limit == "gemm" or size >= beyond))
    products = {
        dtype: [row for row in rows if row["limit"] == "gemm" and row["dtype"] == dtype] for dtype in DTYPES[device]
    }
    return Limits(
        1e9 * max(row["gbps"] for row in rows if row["limit"] == "copy"),
        {dtype: 1e12 * max(row["tflops"] for row in same) for dtype, same in products.items()},
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limits", nargs="+", choices=["copy", "gemm"], default=["copy", "gemm"])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES["cuda"], default=DTYPES["cuda"])
    parser.add_argument("--sizes", nargs="+", type=int, help="of those measured: bytes of a copy, rows of a matrix")


def rows(args: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    def wanted(limit: str, dtype: str, size: int) -> bool:
        return limit in args.limits and dtype in args.dtypes and (args.sizes is None or size in args.sizes)

    nothing = True
    for row in _measured(args.device, args.quick, wanted):
        nothing = False
        selection = ["--limits", row["limit"], "--dtypes", row["dtype"], "--sizes", str(row["size"])]
        yield shlex.join(selection + ["--quick"] * args.quick), row
    if nothing:
        print("sgr-bench roofline: nothing that is measured here has all that was selected", file=sys.stderr)
        raise SystemExit(2)


def line(row: Row) -> str:
    rate = f"{row['gbps']:9.2f} GB/s" if row["limit"] == "copy" else f"{row['tflops']:9.3f} TFLOP/s"
    return f"{row['limit']} {row['dtype']:9} {row['size']:>11} {rate}  ({1e3 * row['seconds']:.3f} ms)"


def last_level_cache(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    files = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [int(file.read_text().strip().removesuffix("K")) * 1024 for file in files]
    return max(sizes, default=UNKNOWN_CACHE)  # told by Linux only


def memory(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def out_of_cache(device: str) -> list[int]:
    """Bytes of the copies that fit into no cache."""
    return [min(factor * last_level_cache(device), memory(device) // PART) for factor in OUT_OF_CACHE]


def _measured(device: str, quick: bool, wanted: Callable[[str, str, int], bool]) -> Iterator[Row]:
    budget, long = (0.2, 0.02) if quick else (1.0, 0.15)
    for size in sorted({*CACHED_COPIES, *out_of_cache(device)[: 1 if quick else None]}):
        if wanted("copy", "float32", size):
            yield _copy(size, device, budget)
    for dtype in DTYPES[device]:
        for size in GEMM_SIZES[device]:
            if not wanted("gemm", dtype, size):
                continue
            yield (row := _gemm(dtype, size, device, budget))
            if row["seconds"] > long:  # the next one takes eight times as long; half precision may be emulated
                break


def _copy(size: int, device: str, budget: float) -> Row:
    source = torch.randn(size // 4, device=device)
    copy = torch.empty_like(source)
    if not torch.equal(copy.copy_(source), source):  # without tensors of float64, which would be twice as large
        raise WrongResult("a copy is wrong")
    row = _timed("copy", "float32", size, partial(copy.copy_, source), device, budget)
    return {**row, "gbps": 2 * size / row["seconds"] / 1e9}


def _gemm(dtype: str, size: int, device: str, budget: float) -> Row:
    a, b = torch.randn(2, size, size, device=device).to(getattr(torch, dtype)).unbind(0)
    b = b.T  # as a linear layer multiplies; where half precision is emulated, the other way is slower
    _check_product(dtype, a, b)
    row = _timed("gemm", dtype, size, partial(torch.mm, a, b), device, budget)
    return {**row, "tflops": 2 * size**3 / row["seconds"] / 1e12}


def _check_product(dtype: str, a: Tensor, b: Tensor) -> None:
    """A few rows. float32 must be float32, not TF32."""
    limit = 1e-5 if dtype == "float32" else 2 * torch.finfo(a.dtype).eps
    require_error_below(limit, f"a {dtype} product", torch.mm(a, b)[:8], a[:8].double() @ b.double())


def _timed(limit: str, dtype: str, size: int, run: Callable[[], Tensor], device: str, budget: float) -> Row:
    timing = interleaved({limit: run}, repeats_for(once(run, device), budget), device)[limit]
    return {"limit": limit, "dtype": dtype, "size": size, **timing._asdict()}
