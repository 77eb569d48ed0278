"""The CUDA kernel of row_norms on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import upcast
from machine import Machine
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, assert_same_bits, far_apart, spread
from torch import Tensor

SEGMENT = 8192


def check(rows: Tensor) -> None:
    """Exact to a few roundings of float64, whatever the dtype."""
    exact = np.sqrt((upcast(rows) ** 2).sum(1))
    assert (np.abs(upcast(Machine().row_norms(rows)) - exact) <= 8 * torch.finfo(torch.float64).eps * exact).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3), (3, 63), (60, 17), (2, SEGMENT), (2, SEGMENT + 1), (3, 2 * SEGMENT), (1, 30011)]
)
def test_row_norms(dtype, shape):
    """Rows shorter than a pack, than a warp; one segment, two, several."""
    check(torch.randn(shape, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [301, SEGMENT + 301])
def test_misaligned_rows_and_strides(dtype, cols):
    """Rows that start anywhere and lie apart; one row for all samples."""
    rows = torch.randn(4, cols, dtype=torch.float64).to(dtype)
    for stride in (cols, cols + 3, cols + 16):
        for start in (0, 1, 3):
            check(spread(rows, stride, start))
    check(rows[:1].expand(4, cols))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [300, SEGMENT + 300])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_inf_show(dtype, cols, value):
    rows = torch.randn(4, cols, dtype=torch.float64).to(dtype)
    clean = Machine().row_norms(rows)
    rows[2, cols - 1] = value
    norms = Machine().row_norms(rows)
    assert norms[2].isnan() if value != value else norms[2] == torch.inf
    assert torch.equal(norms[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_are_zero_and_extremes_do_not_overflow(dtype):
    """The squares of all but float64 fit into the sum."""
    assert not Machine().row_norms(torch.zeros(3, 100, dtype=dtype)).any()
    if dtype != torch.float64:
        check(torch.full((2, 100), torch.finfo(dtype).max, dtype=dtype))
        check(torch.full((2, 100), torch.finfo(dtype).tiny, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_in_any_order(dtype):
    """The same bits whoever runs first, and where blocks take several segments in turn."""
    rows = torch.randn(5, 3 * SEGMENT + 5, dtype=torch.float64).to(dtype)
    expected = Machine().row_norms(rows)
    for schedule, seed in SEEDED_SCHEDULES:
        for max_grid in (3, 2**31 - 1):
            machine = Machine(Device(max_grid=max_grid, schedule=schedule, seed=seed))
            assert_same_bits([expected], [machine.row_norms(rows)])
            assert [launch.blocks for launch in machine.launches] == [min(20, max_grid)]


def test_a_row_does_not_depend_on_its_neighbours():
    rows = torch.randn(7, SEGMENT + 77)
    assert torch.equal(Machine().row_norms(rows)[4:5], Machine().row_norms(rows[4:5]))


def test_offsets_beyond_32_bits():
    """Rows so far apart that row * stride exceeds 2^31 elements."""
    near = torch.randn(3, 50).to(torch.float16)
    assert_same_bits([Machine().row_norms(near)], [Machine().row_norms(far_apart(near))])
