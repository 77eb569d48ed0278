"""Checks every way to compute a case, then times them side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import timing
from ..checks import REPORTED, WrongResult, reason, relative_error, require_error_below
from .case import Case, Results, Run
from .providers import KERNELS

# What a kernel may add to twice the error of plain torch, which may be small by accident: in half precision a rounding.
SLACK = {torch.float32: 1e-5, torch.bfloat16: torch.finfo(torch.bfloat16).eps}
EXACT = 1e-12  # bits
# What torch itself computes is what it is, and its error is in the row: three digits, or in half precision more than
# zeros would be, say that it is the right thing that has been computed.
TORCH = {torch.float32: 1e-3, torch.bfloat16: 1.0}
# Not worth a capture: the reference computes in float64, and launches are part of what Algorithm 1 costs.
NOT_CAPTURED = ("reference", "Algorithm 1")


class Measurement(NamedTuple):
    """``timed``: "wall", or on a GPU "graph" (kernels without their launches) or "events" (with what of that shows)."""

    timing: timing.Timing
    timed: str
    error: float


class Prepared(NamedTuple):
    """What is timed: its results are right."""

    run: Run
    timed: str
    error: float


def measure(
    what: str, case: Case, providers: list[str], dtype: torch.dtype, device: str, budget: float
) -> Iterator[tuple[str, Measurement | str]]:
    """Measurements by provider, in about ``budget`` seconds. Of those that are wrong or raise, first, the reason."""
    prepared: dict[str, Prepared] = {}
    plain = functools.cache(lambda: _plain_errors(case))
    for name in providers:
        try:
            prepared[name] = _prepare(name, what, case, plain, dtype, device)
        except REPORTED as error:
            yield name, reason(error) if isinstance(error, WrongResult) else f"{name}: {what}: {reason(error)}"
    runs = {name: each.run for name, each in prepared.items()}
    try:
        repeats = timing.repeats_for(sum(timing.once(run, device) for run in runs.values()), budget)
        timings = timing.interleaved(runs, repeats, device)
    except REPORTED as error:
        yield from ((name, f"{name}: {what}, timed: {reason(error)}") for name in runs)
        return
    for name, found in timings.items():
        yield name, Measurement(found, prepared[name].timed, prepared[name].error)


def _prepare(
    name: str, what: str, case: Case, plain: Callable[[], list[float]], dtype: torch.dtype, device: str
) -> Prepared:
    way = case.ways[name]

    def check(results: Results) -> float:
        limits = _kernel_limits(results, plain(), dtype) if name in KERNELS else [TORCH[dtype]] * len(results)
        return _largest_error(f"{name}: {what}", results, way.truth(), limits)

    run = way.make()
    error = check(run())
    if device == "cpu":
        return Prepared(run, "wall", error)
    replay = None if name in NOT_CAPTURED else _captured(way.make, check)
    return Prepared(run, "events", error) if replay is None else Prepared(replay, "graph", error)


def _plain_errors(case: Case) -> list[float]:
    plain = case.ways[case.plain]
    return [relative_error(*pair) for pair in zip(plain.make()(), plain.truth(), strict=True)]


def _kernel_limits(results: Results, plain: list[float], dtype: torch.dtype) -> list[float]:
    slack = [SLACK[dtype] if result.is_floating_point() else EXACT for result in results]
    return [2 * error + more for error, more in zip(plain, slack, strict=True)]


def _largest_error(what: str, results: Results, truths: Results, limits: list[float]) -> float:
    errors = []
    for result, truth, limit in zip(results, truths, limits, strict=True):
        if result.shape != truth.shape:
            raise WrongResult(f"{what} is wrong: shape {tuple(result.shape)}, expected {tuple(truth.shape)}")
        errors.append(require_error_below(limit, what, result, truth))
    return max(errors)


def _captured(make: Callable[[], Run], check: Callable[[Results], float]) -> Run | None:
    """A replay, with its results checked again: an empty graph would be a fast one. None: no graph holds the run."""
    results: list[Tensor] = []

    def make_keeping() -> Callable[[], None]:
        run = make()

        def keep() -> None:
            results[:] = run()

        return keep

    try:
        replay = timing.replayed(make_keeping)
    except RuntimeError:
        return None
    for result in results:
        result.detach().zero_()
    replay()
    check(tuple(results))
    return replay
