"""Norms of rows on every backend, each row by itself against extended precision."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, assert_norms_are_exact, device_of, layouts
from hypothesis import given, settings
from hypothesis import strategies as st

import sgr_kernels as sk
from sgr_kernels.functional.direction import row_norms


def normal(backend: str, shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(device_of(backend), dtype)


def matrix(tensor) -> torch.Tensor:
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)


def check(backend: str, tensor) -> torch.Tensor:
    with sk.backend(backend):
        norms = row_norms(tensor)
    assert norms.dtype == torch.float64 and norms.device == tensor.device and norms.is_contiguous()
    assert_norms_are_exact(norms, matrix(tensor))
    return norms


@pytest.mark.parametrize(
    "shape", [(7, 3, 5, 11), (1, 1), (5,), (9, 1), (2, 16385), (3, 40_000), (300, 17), (1, 200_003), (2, 3, 4097)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_exact(backend, dtype, shape):
    """Short rows and long ones, one-dimensional input, rows of one segment and a bit."""
    check(backend, normal(backend, shape, dtype))


@pytest.mark.parametrize("layout", layouts(torch.ones(1, 1, 1, 1)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout(backend, dtype, layout):
    tensor = layouts(normal(backend, (4, 3, 5, 6), dtype))[layout]
    before = tensor.clone()
    check(backend, tensor)
    assert torch.equal(tensor, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_begin_anywhere(backend, dtype):
    for n in (65, 5000):
        rows = normal(backend, (5, n + 9), dtype)
        for late in range(9):
            check(backend, rows[:, late : late + n])
        check(backend, rows[::2])
        check(backend, rows[:1].expand(4, n + 9))


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (0,), (3, 0, 2), (0, 3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_nothing(backend, dtype, shape):
    norms = check(backend, normal(backend, shape, dtype))
    assert norms.shape == shape[:1] and not norms.any()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(3, 20), (3, 40_000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_show_in_their_row(backend, dtype, shape, poison):
    tensor = normal(backend, shape, dtype)
    for at in (0, 7, shape[1] - 1):
        poisoned = tensor.clone()
        poisoned[1, at] = poison
        with sk.backend(backend):
            norms = row_norms(poisoned)
        assert norms[1].isnan() if math.isnan(poison) else norms[1] == math.inf
        assert_norms_are_exact(norms[[0, 2]], tensor[[0, 2]])


def test_nan_hides_inf(backend):
    with sk.backend(backend):
        assert row_norms(torch.tensor([[math.inf, 1.0, math.nan]], device=device_of(backend))).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_tiny_and_dead_rows(backend, dtype):
    """Squares of float64 may overflow, those of all that is narrower do not, down to the smallest subnormal number."""
    limits = torch.finfo(dtype)
    sizes = [1e-150, 1e150] if dtype == torch.float64 else [limits.tiny * limits.eps, limits.tiny, limits.max]
    rows = [torch.full((50,), size, dtype=dtype) for size in (0.0, *sizes)]
    norms = check(backend, torch.stack(rows).to(device_of(backend)))
    assert norms[0] == 0 and norms[1:].all()


def test_sums_do_not_stop_growing(backend):
    """2^24 + 1 squares of 1, where a sum in float32 would."""
    ones = torch.ones(1, dtype=torch.bfloat16, device=device_of(backend)).expand(2, 2**24 + 1)
    with sk.backend(backend):
        assert row_norms(ones.contiguous()).square().round().eq(2**24 + 1).all()


@pytest.mark.parametrize("shape", [(2, 100_003), (5000, 33), (1, 1_000_001)])
def test_reproducible_for_any_number_of_threads(backend, shape):
    if backend == "reference":
        pytest.skip("torch's own sums depend on the number of threads")
    tensor, threads, results = normal(backend, shape), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(check(backend, tensor))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    exponent=st.integers(-30, 30),
    dtype=st.sampled_from(DTYPES[:2]),
)
def test_any_shape_any_strides_any_scale(shape, order, step, exponent, dtype):
    dims = list(range(len(shape)))
    order.shuffle(dims)
    storage = 10.0**exponent * torch.randn([shape[dim] * step for dim in dims], dtype=dtype)
    tensor = storage.permute([dims.index(dim) for dim in range(len(shape))])
    tensor = tensor[tuple(slice(None, None, step) for _ in shape)]
    assert list(tensor.shape) == shape
    assert_norms_are_exact(row_norms(tensor), matrix(tensor))
