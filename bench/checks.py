"""A benchmark of a wrong result is worth nothing: what is measured is compared with the truth first."""

from __future__ import annotations

import torch
from torch import Tensor


class WrongResult(Exception):
    """A provider or an engine computes something else than it claims."""


# What is reported of one measurement while the rest goes on: wrong results, and operators, engines and captures that
# raise (running out of memory is one of them). Anything else is a mistake in the benchmark, and ends it.
REPORTED = (WrongResult, RuntimeError, NotImplementedError)


# The largest relative error between two runs of one step: sums of some kernels have another order every time.
SAME = {"float32": 1e-3, "bfloat16": 5e-2}


def reason(error: Exception) -> str:
    """Why something was not measured, in one line."""
    if isinstance(error, WrongResult):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def relative_error(result: Tensor, truth: Tensor) -> float:
    """|result - truth| / |truth|, in float64, on the device of the truth."""
    truth = truth.detach().double()
    result = result.detach().to(truth)
    return float((result - truth).norm() / truth.norm().clamp(min=torch.finfo(torch.float64).tiny))


def require_error_below(limit: float, what: str, result: Tensor, truth: Tensor) -> float:
    """The relative error; :class:`WrongResult` where it is not below the limit (NaN included)."""
    error = relative_error(result, truth)
    if not error < limit:
        raise WrongResult(f"{what} is wrong: relative error {error:.1e}, allowed {limit:.0e}")
    return error


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
