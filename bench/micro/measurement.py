"""Checks every way to compute a case, then times them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import timing
from ..checks import WrongResult, relative_error, require_error_below
from .case import Case, Results, Run
from .derivatives import PREPARED
from .providers import KERNELS

# What a kernel may add to twice the error of plain torch, which may be small by accident: in half precision a rounding.
SLACK = {torch.float32: 1e-5, torch.bfloat16: torch.finfo(torch.bfloat16).eps}
EXACT = 1e-12  # bits
# What torch itself computes is what it is, and its error is in the row: three digits, or in half precision more than
# zeros would be, say that it is the right thing that has been computed.
TORCH = {torch.float32: 1e-3, torch.bfloat16: 1.0}
# The reference makes tensors of Python numbers, and Algorithm 1 accumulates into .grad: no graph captures that.
NOT_CAPTURED = ("reference", "Algorithm 1")


class Measurement(NamedTuple):
    """``timed``: "wall", or on a GPU "graph" (kernels without their launches) or "events" (with what of that shows)."""

    timing: timing.Timing
    timed: str
    error: float


def measure(
    what: str, mode: str, case: Case, providers: list[str], dtype: torch.dtype, device: str, budget: float
) -> Iterator[tuple[str, Measurement]]:
    """Measurements by provider, in about ``budget`` seconds.

    Raises:
        WrongResult: of any of them, before the first is timed.
    """
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    timed: dict[str, str] = {}
    plain = _plain_errors(case)
    for name in providers:

        def check(results: Results, name: str = name) -> float:
            limits = _kernel_limits(results, plain, dtype) if name in KERNELS else [TORCH[dtype]] * len(results)
            return _largest_error(f"{name}: {what}", results, case.ways[name].truth(), limits)

        runs[name], timed[name] = case.ways[name].make(), "wall"
        errors[name] = check(runs[name]())
        if device == "cuda":
            timed[name] = "events"
            if mode not in PREPARED and name not in NOT_CAPTURED:
                runs[name], timed[name] = _captured(runs[name], check)
    repeats = timing.repeats_for(sum(timing.once(run, device) for run in runs.values()), budget)
    for name, result in timing.interleaved(runs, repeats, device).items():
        yield name, Measurement(result, timed[name], errors[name])


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


def _captured(run: Run, check: Callable[[Results], float]) -> tuple[Run, str]:
    """A replay of ``run``, with its results checked again: an empty graph would be a fast one."""
    results: list[Tensor] = []

    def keep() -> None:
        results[:] = run()

    with torch.cuda.stream(torch.cuda.current_stream()):  # a capture that fails leaves its own stream current
        try:
            replay = timing.replayed(keep)
        except RuntimeError:
            return run, "events"
    for result in results:
        result.detach().zero_()
    replay()
    check(tuple(results))
    return replay, "graph"
