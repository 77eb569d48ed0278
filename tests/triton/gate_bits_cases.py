"""Correctness of the Triton kernels for the gates of a ReLU, to the last bit. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from helpers import DTYPES

from sgr_kernels.operators.gate_bits import triton as kernels

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
MANY = 2**31 + 10_003 if DEVICE == "cuda" else 100_003  # the interpreter would take hours
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 1000, 100_003)
SLOPES = (0.0, 0.01, -1.0)
GUARD = 64  # elements


# --- inputs -----------------------------------------------------------------------------------------------------------


def extremes(dtype):
    limits = torch.finfo(dtype)
    smallest = limits.tiny * limits.eps  # subnormal
    sizes = torch.tensor([math.nan, math.inf, 0.0, limits.tiny, smallest, limits.max, 1.0], dtype=dtype)
    return torch.cat([sizes, -sizes]).to(DEVICE)


def values(n, dtype):
    """Normal numbers, and among them all that a float may also be."""
    x = torch.randn(n, dtype=torch.float64).to(DEVICE, dtype)
    others = x[1::3]
    others.copy_(extremes(dtype).repeat(n)[: len(others)])
    return x


def unaligned(x):
    return torch.cat([x[:1], x])[1:]


def pack(x):
    """The gates of x, by numpy."""
    closed = (x.double() <= 0).cpu().numpy()
    return torch.from_numpy(np.packbits(~closed, bitorder="little")).to(DEVICE)


def random_bits(n):
    return pack(torch.randn(n, dtype=torch.float64))


# --- what is expected -------------------------------------------------------------------------------------------------


def bits_of(x):
    return x.view(INTEGERS[x.element_size()])


def assert_same(result, expected) -> None:
    """To the last bit, so 0 is not -0; but one NaN is as good as another."""
    assert result.dtype == expected.dtype and result.shape == expected.shape
    nan = expected.isnan()
    assert torch.equal(result.isnan(), nan)
    assert torch.equal(bits_of(result)[~nan], bits_of(expected)[~nan])


def expected_relu(x, bits, slope):
    """In plain torch; half precision is multiplied in float32, as torch multiplies it."""
    is_open = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), bitorder="little")[: len(x)]).to(DEVICE).bool()
    wide = x if x.element_size() >= 4 else x.float()
    factor = torch.tensor(slope, dtype=torch.float64, device=DEVICE).to(wide.dtype)
    closed = (factor * wide).to(x.dtype) if slope != 0 else torch.zeros_like(x)
    return torch.where(is_open, x, closed)


def check_record(x, slope) -> None:
    before, bits = x.clone(), pack(x)
    expected = expected_relu(x, bits, slope)
    y, recorded = kernels.record_relu(x, slope)
    assert torch.equal(recorded, bits) and recorded.dtype == torch.uint8
    assert_same(y, expected)
    assert torch.equal(bits_of(x), bits_of(before))
    assert torch.equal(kernels.record_relu_(x, slope), bits)
    assert torch.equal(bits_of(x), bits_of(y))


def check_replay(x, bits, slope) -> None:
    before, bits_before = x.clone(), bits.clone()
    expected = expected_relu(x, bits, slope)
    y = kernels.replay_relu(x, bits, slope)
    assert_same(y, expected)
    assert torch.equal(bits_of(x), bits_of(before))
    assert kernels.replay_relu_(x, bits, slope) is None
    assert torch.equal(bits_of(x), bits_of(y))
    assert torch.equal(bits, bits_before)


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_record(dtype, n):
    for slope in SLOPES:
        check_record(values(n, dtype), slope)
    check_record(unaligned(values(n, dtype)), 0.01)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_replay(dtype, n):
    """Of gates that have nothing to do with x: NaN and Inf are closed too."""
    for slope in SLOPES:
        check_replay(values(n, dtype), random_bits(n), slope)
    check_replay(unaligned(values(n, dtype)), unaligned(random_bits(n)), 0.01)


@pytest.mark.parametrize("slope", [-0.0, 1e-50])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_that_are_zero_and_only_rounded_to_zero(dtype, slope):
    """The latter multiplies: what was -Inf becomes NaN."""
    check_record(values(100, dtype), slope)
    check_replay(values(100, dtype), random_bits(100), slope)


@pytest.mark.parametrize("slope", [0.01, -1.0, 1.5])  # with the last, many products of halves are ties
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_leaky_relu_of_torch(dtype, slope):
    x = values(5000, dtype)
    y, bits = kernels.record_relu(x, slope)
    assert_same(y, torch.nn.functional.leaky_relu(x, slope))
    assert_same(kernels.replay_relu(x, bits, slope), y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_recorded_gates_one_by_one(dtype):
    x = torch.tensor([-1.0, 2.0, math.nan, 0.0, -0.0, math.inf, -math.inf, 3.0, 1.0, -2.0], dtype=dtype, device=DEVICE)
    y, bits = kernels.record_relu(x, 0.0)
    assert bits.tolist() == [0b10100110, 0b01]
    assert y.nan_to_num(nan=7.0, posinf=8.0).tolist() == [0, 2, 7, 0, 0, 8, 0, 3, 1, 0]
    assert not y[[0, 3, 4, 6, 9]].signbit().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_open_gates_do_not_touch_anything(dtype):
    """Not even the payload of a NaN."""
    integers = INTEGERS[dtype.itemsize]
    limits = torch.iinfo(integers)
    x = torch.randint(limits.min, limits.max, (3000,), dtype=integers, device=DEVICE).view(dtype)
    assert x.isnan().any() or dtype == torch.float64
    bits = torch.full((375,), 255, dtype=torch.uint8, device=DEVICE)
    assert torch.equal(bits_of(kernels.replay_relu(x, bits, 0.5)), bits_of(x))
    y, recorded = kernels.record_relu(x, 0.0)
    is_open = ~(x <= 0)
    assert torch.equal(bits_of(y)[is_open], bits_of(x)[is_open]) and not bits_of(y)[~is_open].any()
    assert torch.equal(recorded, pack(x))


def guarded(x):
    """A copy of x, and all around it."""
    around = x.new_full((len(x) + 2 * GUARD,), 77)
    inside = around[GUARD : GUARD + len(x)]
    return inside.copy_(x), around


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_else_is_written(dtype, n):
    for kernel in (kernels._record_kernel, kernels._replay_kernel):
        x, around_x = guarded(values(n, dtype))
        y, around_y = guarded(torch.zeros_like(x))
        bits, around_bits = guarded(random_bits(n))
        kernels._launch(kernel, y, bits, x, 0.5)
        kernels._launch(kernel, x, bits, x, 0.5)
        for inside, around in ((x, around_x), (y, around_y), (bits, around_bits)):
            assert (around[:GUARD] == 77).all() and (around[GUARD + len(inside) :] == 77).all()


def test_many_elements():
    x = torch.randn(MANY, dtype=torch.float16, device=DEVICE)
    end = (MANY - 5000) // 8 * 8
    last = x[end:].clone()
    bits = kernels.record_relu_(x, 0.01)
    assert torch.equal(bits[end // 8 :], pack(last))
    expected = expected_relu(last, bits[end // 8 :], 0.01)
    assert_same(x[end:], expected)
    kernels.replay_relu_(x, bits, 0.01)
    assert_same(x[end:], expected_relu(expected, bits[end // 8 :], 0.01))
