"""Correctness of the Triton kernel of sgr_shift. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import DTYPES, any_order_shift_error, assert_as_exact_as
from triton_helpers import DEVICE, exact_shift, normal, plain_shift, within_nan

from sgr_kernels.operators.sgr_shift.triton import sgr_shift


def check_shift(x, delta, target, factor=0.3) -> None:
    alpha, beta = normal(2, len(x), dtype=torch.float64)
    result = sgr_shift(x, delta, target, alpha, beta, factor)
    assert result.is_contiguous() and result.dtype == x.dtype
    args = (x, delta, target, alpha, beta, factor)
    assert_as_exact_as(result, plain_shift(*args), exact_shift(*args), any_order_shift_error(*args))


@pytest.mark.parametrize("shape", [(5, 333), (2, 2048), (2, 2049), (3, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shift(dtype, shape):
    check_shift(*(normal(*shape, dtype=dtype) for _ in range(3)), factor=-1.7)


def test_shift_keeps_its_digits():
    """factor v is small against what it is made of: float32 on the way would show."""
    x, delta = normal(2, 300), normal(2, 300)
    target = (delta.double() * (1 + 1e-6 * normal(2, 300, dtype=torch.float64))).float()
    alpha = torch.full((2,), 1e6, dtype=torch.float64, device=DEVICE)
    args = (x, delta, target, alpha, -alpha, 0.1)
    truth = exact_shift(*args)
    assert_as_exact_as(sgr_shift(*args), torch.from_numpy(truth.astype(np.float32)), truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_of_strided_rows(dtype):
    x, delta, target = (normal(3, 80, dtype=dtype) for _ in range(3))
    check_shift(within_nan(x), within_nan(delta), target)
    check_shift(x, delta[:1].expand(3, 80), within_nan(target))
    check_shift(x[:, 1:66], delta[:, 3:68], target[:, 15:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_leaves_dead_rows_alone(dtype):
    x, delta, target = (normal(4, 70, dtype=dtype) for _ in range(3))
    delta[1], target[2, 5], x[3, 0] = math.inf, math.nan, math.inf
    alpha, beta = normal(2, 4, dtype=torch.float64)
    alpha[1:], beta[1:] = 0, 0
    result = sgr_shift(x, delta, target, alpha, beta, 2.0)
    assert torch.equal(result[1:], x[1:])
    assert not torch.equal(result[0], x[0])
    alpha[2] = 1.0
    assert sgr_shift(x, delta, target, alpha, beta, 2.0)[2, 5].isnan()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_shift_of_nothing(shape):
    empty = normal(*shape)
    coefficients = normal(shape[0], dtype=torch.float64)
    assert sgr_shift(empty, empty, empty, coefficients, coefficients, 1.0).shape == shape
