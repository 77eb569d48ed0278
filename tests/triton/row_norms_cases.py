"""Correctness of the Triton kernels of row_norms. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, assert_norms_are_exact
from triton_helpers import DEVICE, normal, within_nan

from sgr_kernels.operators.common import triton_rows
from sgr_kernels.operators.row_norms.triton import row_norms


def check(rows) -> None:
    before = rows.clone()
    norms = row_norms(rows)
    assert norms.shape == rows.shape[:1] and norms.dtype == torch.float64 and norms.is_contiguous()
    assert_norms_are_exact(norms, rows)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("shape", [(5, 333), (7, 1), (3, 256), (2, 2048), (3, 2049), (2, 4096), (2, 4097), (300, 17)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_row_norms(dtype, shape):
    check(normal(*shape, dtype=dtype))


@pytest.mark.parametrize("n", [20_003, 20_480])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_split_over_programs(dtype, n):
    assert triton_rows.split_rows(1, n)[0] > 1
    check(normal(1, n, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_split_rows(dtype):
    rows = normal(70, 5000, dtype=dtype)
    assert triton_rows.split_rows(*rows.shape)[0] > 1
    check(rows)


@pytest.mark.parametrize("n", [48, 4096 + 48])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_rows_that_begin_anywhere(dtype, n):
    rows = normal(3, n + 3, dtype=dtype)
    check(within_nan(rows))
    check(rows[:, 3:])
    check(rows[:, :n][::2])
    check(rows[:1].expand(3, n + 3))


def test_offsets_beyond_32_bits():
    """Row 1 lies 2^31 elements behind row 0. The space between is never touched and costs no memory on a CPU."""
    stride = 2**31 + 16
    rows = normal(2, 64, dtype=torch.bfloat16)
    wide = torch.empty(stride + 64, dtype=torch.bfloat16, device=DEVICE).as_strided((2, 64), (stride, 1))
    assert torch.equal(row_norms(wide.copy_(rows)), row_norms(rows))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3, 40), (3, 9000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_show_in_their_row(dtype, shape, poison):
    rows = normal(*shape, dtype=dtype)
    for at in (0, shape[1] - 1):
        poisoned = rows.clone()
        poisoned[1, at] = poison
        norms = row_norms(poisoned)
        assert norms[1].isnan() if math.isnan(poison) else norms[1] == math.inf
        assert_norms_are_exact(norms[[0, 2]], rows[[0, 2]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_huge_and_tiny_rows(dtype):
    """Squares of float64 overflow; those of everything else do not."""
    limits = torch.finfo(dtype)
    sizes = [1e-150, 1e150] if dtype == torch.float64 else [limits.tiny, limits.max]
    if dtype in (torch.float32, torch.float16) or (dtype == torch.bfloat16 and DEVICE == "cuda"):
        sizes.append(limits.tiny * limits.eps)  # subnormal, which the interpreter loses in bfloat16
    rows = torch.stack([torch.full((60,), size, dtype=dtype) for size in (0.0, *sizes)]).to(DEVICE)
    check(rows)
    assert row_norms(rows)[0] == 0


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_nothing(shape, dtype):
    norms = row_norms(normal(*shape, dtype=dtype))
    assert norms.shape == shape[:1] and norms.dtype == torch.float64 and not norms.any()


@pytest.mark.parametrize("shape", [(1, 50_000), (70, 5000), (5, 333)])
def test_reproducible(shape):
    rows = normal(*shape)
    assert torch.equal(row_norms(rows), row_norms(rows))
