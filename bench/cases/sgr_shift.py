"""What sgr_shift is checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from sgr_kernels.operators.sgr_shift import sgr_shift

from .case import Cases, Compared, Inputs, Size
from .sgr_loss import ROWS, coefficients, combined, pair


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    delta, target = pair(size, inputs)
    yield inputs.normal(delta.shape), delta, target, *coefficients(len(delta), inputs), 0.7


def _compare(results, x, delta, target, alpha, beta, factor) -> Iterator[Compared]:
    yield Compared("sum", results[0], x + factor * combined(alpha, delta, beta, target))


CASES = {sgr_shift: Cases(ROWS, _arguments, _compare)}
