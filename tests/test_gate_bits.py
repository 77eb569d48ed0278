"""The registered operators of recorded gates on every backend, against plain torch to the last bit."""

from __future__ import annotations

import math

import pytest
import torch
from gate_formulas import (
    SIZES,
    SLOPES,
    as_integers,
    assert_same_numbers,
    gated_relu,
    gated_values,
    packed_gates,
    random_gates,
)
from helpers import DTYPES, device_of, operators_on

import sgr_kernels as sk

MANY = 100_003  # elements: enough for several threads
BACKENDS = [name for name, status in sk.backends().items() if name != "reference" and not status.startswith("missing")]
COMPILED = [name for name in BACKENDS if name != "triton"]  # these check their arguments


@pytest.fixture(params=BACKENDS)
def kernels(request):
    """The operators of a backend, and the device of its tensors."""
    return operators_on(request.param), device_of(request.param)


def check_record(op, x, slope) -> None:
    before, bits = x.clone(), packed_gates(x)
    y, recorded = op.record_relu(x, slope)
    assert recorded.dtype == torch.uint8 and torch.equal(recorded, bits)
    assert_same_numbers(y, gated_relu(x, bits, slope))
    assert torch.equal(as_integers(x), as_integers(before))
    assert torch.equal(op.record_relu_(x, slope), bits)
    assert torch.equal(as_integers(x), as_integers(y))


def check_replay(op, x, bits, slope) -> None:
    before, same_bits = x.clone(), bits.clone()
    y = op.replay_relu(x, bits, slope)
    assert_same_numbers(y, gated_relu(x, bits, slope))
    assert torch.equal(as_integers(x), as_integers(before))
    assert op.replay_relu_(x, bits, slope) is None
    assert torch.equal(as_integers(x), as_integers(y))
    assert torch.equal(bits, same_bits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*SIZES, MANY])
def test_record_and_replay(kernels, dtype, n):
    """Also of tensors that start anywhere, and by gates that have nothing to do with x."""
    op, device = kernels
    for slope in SLOPES:
        for offset in (0, 1):
            check_record(op, gated_values(n, dtype, offset, device), slope)
            bits = random_gates(n + 8 * offset, device)[offset:]
            check_replay(op, gated_values(n, dtype, offset, device), bits, slope)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_one_by_one(kernels, dtype):
    op, device = kernels
    x = torch.tensor([-1.0, 2.0, math.nan, 0.0, -0.0, math.inf, -math.inf, 3.0, 1.0, -2.0], dtype=dtype, device=device)
    x[2:3] = -x[2:3]  # a NaN with a sign
    y, bits = op.record_relu(x, 0.0)
    assert bits.tolist() == [0b10100110, 0b01]
    assert y.nan_to_num(nan=7.0, posinf=8.0).tolist() == [0, 2, 7, 0, 0, 8, 0, 3, 1, 0]
    assert not y[[0, 3, 4, 6, 9]].signbit().any()
    closed = op.replay_relu(x, torch.zeros_like(bits), 0.0)
    assert not as_integers(closed).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.01, -1.0, 1.5])  # with the last, many products of half types are ties
def test_it_is_the_leaky_relu_of_torch(kernels, dtype, slope):
    op, device = kernels
    x = gated_values(5000, dtype, 0, device)
    y, bits = op.record_relu(x, slope)
    assert_same_numbers(y, torch.nn.functional.leaky_relu(x, slope))
    assert_same_numbers(op.replay_relu(x, bits, slope), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [-0.0, 1e-50])
def test_slopes_that_are_zero_or_only_round_to_it(kernels, dtype, slope):
    """The latter multiply: what was -Inf becomes NaN."""
    op, device = kernels
    check_record(op, gated_values(100, dtype, 0, device), slope)
    check_replay(op, gated_values(100, dtype, 0, device), random_gates(100, device), slope)


@pytest.mark.parametrize("dtype", DTYPES)
def test_open_gates_do_not_touch_anything(kernels, dtype):
    """Any pattern of bits, so also the payload of a NaN."""
    op, device = kernels
    integers = as_integers(torch.empty(0, dtype=dtype)).dtype
    limits = torch.iinfo(integers)
    x = torch.randint(limits.min, limits.max, (3000,), dtype=integers, device=device).view(dtype)
    bits = torch.full((375,), 255, dtype=torch.uint8, device=device)
    assert torch.equal(as_integers(op.replay_relu(x, bits, 0.5)), as_integers(x))
    is_open = ~(x <= 0)
    y, bits = op.record_relu(x, 0.0)
    assert torch.equal(bits, packed_gates(x))
    assert torch.equal(as_integers(y), torch.where(is_open, as_integers(x), 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(kernels, dtype):
    op, device = kernels
    for n in (0, 1, 50):
        x, bits = gated_values(n, dtype, 0, device).nan_to_num(), random_gates(n, device)
        for operator, arguments in (
            (op.record_relu, (x, 0.01)),
            (op.record_relu_, (x, 0.01)),
            (op.replay_relu, (x, bits, 0.01)),
            (op.replay_relu_, (x, bits, 0.01)),
        ):
            torch.library.opcheck(operator, arguments)


def on_device(tensor, name):
    """A copy with the same strides."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device_of(name))
    return copy.copy_(tensor)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3), "x must be one-dimensional, got 2 dimensions"),
        (torch.ones(8)[::2], "x must be contiguous, got stride 2"),
        (torch.ones(8, dtype=torch.int32), "expected float64, float32, bfloat16 or float16"),
    ],
)
def test_wrong_x(name, x, message):
    op, x = operators_on(name), on_device(x, name)
    bits, before = torch.zeros(1, dtype=torch.uint8, device=x.device), x.clone()
    for call in (
        lambda: op.record_relu(x, 0.0),
        lambda: op.record_relu_(x, 0.0),
        lambda: op.replay_relu(x, bits, 0.0),
        lambda: op.replay_relu_(x, bits, 0.0),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (torch.ones(2, dtype=torch.uint8), "bits must have 3 bytes for 17 elements of x, got 2"),
        (torch.ones(4, dtype=torch.uint8), "bits must have 3 bytes for 17 elements of x, got 4"),
        (torch.ones(3, dtype=torch.int8), "bits must be uint8"),
        (torch.ones(3, 1, dtype=torch.uint8), "bits must be one-dimensional and contiguous"),
        (torch.ones(6, dtype=torch.uint8)[::2], "bits must be one-dimensional and contiguous"),
    ],
)
def test_wrong_bits(name, bits, message):
    op, bits = operators_on(name), on_device(bits, name)
    x = torch.ones(17, device=bits.device)
    for call in (lambda: op.replay_relu(x, bits, 0.0), lambda: op.replay_relu_(x, bits, 0.0)):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("name", COMPILED)
def test_bits_on_another_device(name):
    op, device = operators_on(name), device_of(name)
    x, bits = torch.ones(17, device=device), torch.ones(3, dtype=torch.uint8, device={"cpu": "cuda"}.get(device, "cpu"))
    for call in (lambda: op.replay_relu(x, bits, 0.0), lambda: op.replay_relu_(x, bits, 0.0)):
        with pytest.raises(RuntimeError, match="must be"):
            call()
