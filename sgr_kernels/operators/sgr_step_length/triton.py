"""sgr_step_length in Triton, by one program: there is a number or two a sample."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..row_norms.triton import row_norms
from .reference import TINY

_BLOCK = 512  # rows per step of the program


@triton.jit
def _power(base, exponent):
    return tl.exp(exponent * tl.log(base))


@triton.jit
def _load(numbers, at, count):
    return tl.load(numbers + at, mask=at < count, other=0.0)


@triton.jit
def _smaller(a, b):
    """NaN where one of them is."""
    return tl.where((a < b) | (a != a), a, b)


@triton.jit
def _relative_lengths(length, x, delta, per_value, gain_power, BY_SAMPLE: tl.constexpr):
    """rho: |v| / |x|, times the gain where that is below 1; where x is 0, |v| times the gain without |x|."""
    nowhere = x == 0
    distance = length / tl.where(nowhere, 1.0, x)
    if not BY_SAMPLE:
        return tl.where(nowhere, 0.0, distance)
    gain = per_value * x
    ahead = _power(tl.where(gain < 1, gain, 1.0), gain_power) * distance  # 1 for NaN
    at_zero = length * per_value
    return tl.where(nowhere, tl.where(tl.abs(at_zero) < float("inf"), at_zero, 0.0), ahead)


@triton.jit(do_not_specialize=["rows", "outputs"])
def _step_length_kernel(
    inverse, step, loss, coef, x, delta, output, delta_output, rows, outputs, size_ratio: tl.float64,
    typical: tl.float64, longest: tl.float64, gain_power: tl.float64, most: tl.float64, tiny: tl.float64,
    BY_SAMPLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """inverse: one number. step (2, rows), loss one number, coef (4, rows), x, delta (rows,), output, delta_output
    (outputs,) or None. BY_SAMPLE: whether rows and outputs pair up.
    """
    lanes = tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.float64)
    weighted, weight, parts, furthest, x_square, delta_square = zero, zero, zero, zero, zero, zero
    for start in range(0, rows, BLOCK):
        at = start + lanes
        x_norm, delta_norm = _load(x, at, rows), _load(delta, at, rows)
        length, alpha = _load(coef + 3 * rows, at, rows), _load(coef, at, rows)
        per_value = zero
        if BY_SAMPLE:
            per_value = size_ratio * delta_norm / (_load(output, at, rows) * _load(delta_output, at, rows))
        rho = _relative_lengths(length, x_norm, delta_norm, per_value, gain_power, BY_SAMPLE)
        inside = at < rows
        weighted += tl.where(inside, delta_norm * (rho * rho), 0.0)
        weight += delta_norm
        parts += _smaller(length, tl.abs(alpha) * delta_norm) * delta_norm
        furthest = tl.where(inside & (rho > furthest), rho, furthest)
        x_square += x_norm * x_norm
        delta_square += delta_norm * delta_norm
    mean_square = tl.sum(weighted, 0) / tl.where(tl.sum(weight, 0) < tiny, tiny, tl.sum(weight, 0))
    change = tl.sqrt(mean_square)  # A
    if output is not None:
        output_square, delta_output_square = zero, zero
        for start in range(0, outputs, BLOCK):
            output_norm, delta_norm = _load(output, start + lanes, outputs), _load(delta_output, start + lanes, outputs)
            output_square += output_norm * output_norm
            delta_output_square += delta_norm * delta_norm
        before = tl.sqrt(tl.sum(x_square, 0)) * tl.sqrt(tl.sum(delta_square, 0))
        after = tl.sqrt(tl.sum(output_square, 0)) * tl.sqrt(tl.sum(delta_output_square, 0))
        gain = tl.where(after == 0, 1.0, before / tl.where(after == 0, 1.0, after) * size_ratio)
        change *= _power(tl.where(gain < 1, 1.0, gain), gain_power)
    loss_value = tl.load(loss).to(tl.float64)
    of_loss = tl.where(loss_value > 0, tl.sum(parts, 0) / tl.where(loss_value > 0, loss_value, 1.0), 0.0)
    of_loss = _smaller(of_loss, most * change)  # K
    total = tl.sqrt(change * (change + of_loss)) / typical
    bound = tl.max(furthest, 0) / longest
    result = tl.where(bound > total, bound, total)
    tl.store(inverse, result)
    h = 1.0 / result
    h = tl.where(tl.abs(h) == float("inf"), 0.0, h)
    for start in range(0, 2 * rows, BLOCK):
        at = start + lanes
        tl.store(step + at, h * _load(coef, at, 2 * rows), mask=at < 2 * rows)


def sgr_step_length(
    loss: Tensor,
    coef: Tensor,
    x: Tensor,
    delta: Tensor,
    output: Tensor | None,
    delta_output: Tensor | None,
    *law: float,
) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_step_length``: 1 / h, and (2, B) h alpha and h beta."""
    tensors, rows, outputs = (x, delta, output, delta_output), len(x), 0 if output is None else len(output)
    inverse, step = coef.new_zeros(()), coef.new_empty((2, rows))
    if rows > 0:
        x, delta, output, delta_output = (each if each is None else row_norms(each) for each in tensors)
        with torch.cuda.device_of(coef):
            _step_length_kernel[1,](
                inverse, step, loss, coef, x, delta, output, delta_output, rows, outputs, *law, TINY,
                BY_SAMPLE=output is not None and rows == outputs, BLOCK=_BLOCK, num_warps=4,
            )  # fmt: skip
    return inverse, step
