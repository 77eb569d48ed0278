"""The CUDA kernels of relu_backward on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import pytest
import torch
from helpers import any_order_sum_error, assert_as_exact_as, upcast
from machine import Machine
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, assert_same_bits, wide
from torch import Tensor

# Columns of a matrix: one block, several, a part of the last one; fewer columns than a pack; several parts
MATRICES = [(7, 2, 1), (1, 300, 1), (300, 10, 1), (33, 64, 1), (150, 264, 1), (40, 7, 1), (520, 16, 1)]
IMAGES = [(5, 24, 16), (3, 5, 49), (4, 2, 256), (2, 3, 2)]
# Slices: shorter than a segment, longer, several in a block; a single channel
SLICES = [(3, 5, 301), (2, 3, 8193), (1, 2, 20000), (1101, 2, 257), (9, 1, 1), (3, 1, 5000)]


def at_offset(values: Tensor, offset: int) -> Tensor:
    """A contiguous copy that starts ``offset`` elements after an aligned address, with NaN on both sides."""
    memory = torch.full((values.numel() + 2 * offset + 16,), torch.nan, dtype=values.dtype)
    view = memory[offset : offset + values.numel()].view(values.shape)
    return view.copy_(values)


def relu_inputs(shape, dtype) -> tuple[Tensor, Tensor]:
    """Gradient and output of a ReLU, with open and closed gates, and NaN in one of the outputs."""
    grad, output = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64).relu()
    output.view(-1)[len(output.view(-1)) // 2] = torch.nan
    output.view(-1)[0] = -0.0
    return grad.to(dtype), output.to(dtype)


def check_relu_backward(grad: Tensor, output: Tensor, machine: Machine, offset: int = 0) -> Tensor:
    expected = torch.where(output <= 0, torch.zeros((), dtype=grad.dtype), grad)
    masked, sums = machine.relu_backward(grad, output, True, offset)
    assert_same_bits([masked], [expected])
    any_order = any_order_sum_error(expected, (0, 2))
    assert_as_exact_as(sums, expected.sum((0, 2), dtype=wide(grad)), upcast(expected).sum((0, 2)), any_order)
    alone, none = machine.relu_backward(grad, output, False, offset)
    assert_same_bits([alone], [expected])
    assert none.numel() == 0 and len(machine.launches) == 1
    return sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", MATRICES + IMAGES + SLICES)
def test_relu_backward(dtype, shape):
    check_relu_backward(*relu_inputs(shape, dtype), Machine())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(150, 64, 1), (3, 5, 49), (3, 4, 600)])
def test_misaligned_tensors(dtype, shape):
    """Tensors that start anywhere, together or not."""
    for first, second, offset in [(1, 1, 1), (1, 2, 0), (3, 3, 0), (0, 0, 1), (5, 5, 5), (0, 1, 0)]:
        grad, output = relu_inputs(shape, dtype)
        check_relu_backward(at_offset(grad, first), at_offset(output, second), Machine(), offset)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(150, 600, 1), (3, 24, 49), (4, 3, 9000), (1101, 2, 257)])
def test_in_any_order(dtype, shape):
    """The same bits whoever runs first, and where blocks take several parts in turn."""
    grad, output = relu_inputs(shape, dtype)
    expected = Machine().relu_backward(grad, output, True)
    for schedule, seed in SEEDED_SCHEDULES:
        machine = Machine(Device(max_grid=5, schedule=schedule, seed=seed))
        assert_same_bits(list(expected), list(machine.relu_backward(grad, output, True)))
        assert max(launch.blocks for launch in machine.launches) <= 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", [(40, 12, 1), (4, 6, 25), (3, 4, 600)])
def test_nan_and_inf_show_where_a_gate_is_open(dtype, value, shape):
    grad, output = relu_inputs(shape, dtype)
    grad[1, 2, 0], output[1, 2, 0] = value, 0.0  # behind a closed gate
    sums = check_relu_backward(grad, output, Machine())
    assert sums.isfinite().all()
    output[1, 2, 0] = 1.0
    masked, sums = Machine().relu_backward(grad, output, True)
    assert not masked[1, 2, 0].isfinite()
    assert sums.isfinite().logical_not().tolist() == [channel == 2 for channel in range(shape[1])]


@pytest.mark.parametrize("shape", [(4000, 4, 1), (100, 3, 49), (4, 2, 9000)])
def test_sums_do_not_lose_small_terms(shape):
    """A float32 accumulator would stop at 2^24 units of the terms, and lose what cancels."""
    grad = torch.full(shape, 1e-3)
    grad[0, :, 0], grad[-1, :, -1] = 3e5, -3e5
    check_relu_backward(grad, torch.ones(shape), Machine())
