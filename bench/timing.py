"""Timing several ways to do the same, interleaved in one process, and writing down what came out and where."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def interleaved(providers: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every provider; each round runs all of them once."""
    for run in providers.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(repeats):
        for name, run in providers.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def parse(description: str, options: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """Command line of a benchmark on the CPU, with ``options`` of its own; sets threads and seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--out", type=pathlib.Path, help="also write the rows as JSON")
    if options is not None:
        options(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def report(args: argparse.Namespace, command: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows with the machine they were measured on, if asked to."""
    if args.out is None:
        return
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "threads": args.threads, "torch": torch.__version__}
    stamp = time.strftime("%Y-%m-%d")
    options = [f"--{name.replace('_', '-')} {_words(value)}" for name, value in vars(args).items() if name != "out"]
    result = {"command": " ".join([command, *options]), "date": stamp, "machine": machine, "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cpu() -> str:
    """Model name where Linux tells it, else the architecture."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
