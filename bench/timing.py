"""Timing several ways to do the same, interleaved in one process, on a CPU or a GPU."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds of one run: the median, and the 20th and 80th percentile, of ``repeats`` runs."""

    seconds: float
    low: float
    high: float
    repeats: int


def interleaved(runs: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, Timing]:
    """Time of every run after a warm-up; each round runs all of them once, so that all meet the same disturbances."""
    measure = _cuda_seconds if device == "cuda" else _cpu_seconds
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(measure(run))
    return {name: _summary(times) for name, times in seconds.items()}


def repeats_for(seconds: float, budget: float, least: int = 3, most: int = 300) -> int:
    """How many runs of ``seconds`` fit into ``budget`` seconds, within bounds."""
    return max(least, min(most, int(budget / max(seconds, 1e-9))))


def once(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one run after a warm-up: a first guess at how often it can be repeated."""
    run()
    return _cuda_seconds(run) if device == "cuda" else _cpu_seconds(run)


@functools.cache
def _side_stream() -> torch.cuda.Stream:
    """One for all captures: memory that was freed on a stream is kept for it."""
    return torch.cuda.Stream()


def replayed(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """The run that ``make`` prepares, captured in a CUDA graph: a replay takes the time of its kernels alone.

    Preparation, warm-up and capture share a stream, because the nodes of an autograd graph run on the stream that
    they were made on, and a capture takes in what runs on its own.

    Raises:
        RuntimeError: the run cannot be captured. The current stream is what it was.
    """
    current, side = torch.cuda.current_stream(), _side_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        run = make()
        run()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(current), torch.cuda.graph(graph, stream=side):  # one that fails leaves its own current
            result = run()
    except RuntimeError:
        _forget_failed_capture()
        raise

    def replay(_keep_alive: object = (run, result)) -> None:
        graph.replay()

    return replay


def _forget_failed_capture() -> None:
    """The generator believes that the capture goes on, and would refuse to draw: it gets another state."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(torch.Generator("cuda").graphsafe_get_state())


def _cpu_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], object]) -> float:
    """Between two events, with a cold L2 cache. Clearing it also gives the CPU time to launch ahead."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.empty(4 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.int8, device="cuda").zero_()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _summary(times: list[float]) -> Timing:
    if len(times) < 2:
        return Timing(times[0], times[0], times[0], 1)
    quantiles = statistics.quantiles(times, n=10, method="inclusive")
    return Timing(statistics.median(times), quantiles[1], quantiles[7], len(times))
