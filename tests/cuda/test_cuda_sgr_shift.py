"""The CUDA kernel of sgr_shift on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import pytest
import torch
from helpers import any_order_shift_error, assert_as_exact_as, upcast
from machine import Machine
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, assert_same_bits, far_apart, spread
from torch import Tensor


def shift_inputs(rows: int, cols: int, dtype) -> tuple[Tensor, ...]:
    x, delta, target = (torch.randn(rows, cols, dtype=torch.float64).to(dtype) for _ in range(3))
    return x, delta, target, torch.randn(rows, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)


def check_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, offset: int = 0) -> None:
    factor = 0.37
    out = Machine().sgr_shift(x, delta, target, alpha, beta, factor, offset)
    a, b = (factor * coefficient[:, None] for coefficient in (alpha, beta))
    truth = upcast(x) + upcast(a) * upcast(delta) + upcast(b) * upcast(target)
    any_order = any_order_shift_error(x, delta, target, alpha, beta, factor)
    assert_as_exact_as(out, x + (a.to(x.dtype) * delta + b.to(x.dtype) * target), truth, any_order)
    if x.dtype == torch.float32:
        assert torch.equal(out, (x.double() + (a * delta.double() + b * target.double())).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 63), (60, 17), (2, 8192), (2, 8193), (1, 20011)])
def test_shift(dtype, shape):
    check_shift(*shift_inputs(*shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_of_misaligned_rows(dtype):
    """Inputs with strides of their own that start anywhere; also one row for all samples."""
    cols = 301
    starts = [(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (0, 0, 0, 1), (3, 3, 3, 0), (5, 5, 5, 5)]
    for first, second, third, offset in starts:
        for stride in (cols, cols + 3, 320):
            *rows, alpha, beta = shift_inputs(3, cols, dtype)
            rows = [spread(values, stride, start) for start, values in zip((first, second, third), rows, strict=True)]
            check_shift(*rows, alpha, beta, offset)
    x, delta, target, alpha, beta = shift_inputs(4, cols, dtype)
    check_shift(x, delta[:1].expand(4, cols), target, alpha, beta)
    check_shift(x[:1].expand(4, cols), delta, target[1:2].expand(4, cols), alpha, beta)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_leaves_dead_rows_alone(dtype):
    """To the last bit, whatever delta and target hold; a row with one coefficient is alive."""
    x, delta, target, alpha, beta = shift_inputs(4, 100, dtype)
    alpha[1], beta[1], alpha[2] = 0, 0, 0
    x[1, 3], x[1, 4], x[1, 99] = -0.0, torch.inf, torch.finfo(dtype).tiny
    delta[1, 5], target[1, 6], delta[1, 99] = torch.inf, torch.nan, -torch.inf
    out = Machine().sgr_shift(x, delta, target, alpha, beta, 0.5)
    assert_same_bits([out[1]], [x[1]])
    assert (out[[0, 2, 3]] != x[[0, 2, 3]]).any(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_shift_shows_nan_and_inf(dtype, value):
    inputs = shift_inputs(3, 300, dtype)
    clean = Machine().sgr_shift(*inputs, 0.5)
    for index in range(3):
        changed = [tensor.clone() for tensor in inputs]
        changed[index][1, 17] = value
        out = Machine().sgr_shift(*changed, 0.5)
        assert not out[1, 17].isfinite()
        out[1, 17] = clean[1, 17]
        assert torch.equal(out, clean)


def test_shift_in_any_order():
    inputs = shift_inputs(3, 20000, torch.bfloat16)
    expected = Machine().sgr_shift(*inputs, 0.5)
    for schedule, seed in SEEDED_SCHEDULES:
        machine = Machine(Device(max_grid=4, schedule=schedule, seed=seed))
        assert_same_bits([expected], [machine.sgr_shift(*inputs, 0.5)])


def test_offsets_beyond_32_bits():
    """Rows so far apart that row * stride exceeds 2^31 elements."""
    near, delta, target, alpha, beta = shift_inputs(3, 50, torch.float16)
    far, machine = far_apart(near), Machine()
    assert torch.equal(far, near)
    for place in range(3):
        rows = [delta, target]
        rows.insert(place, near)
        expected = machine.sgr_shift(*rows, alpha, beta, 0.5)
        rows[place] = far
        assert_same_bits([expected], [machine.sgr_shift(*rows, alpha, beta, 0.5)])
