"""The CUDA kernels of recorded gates on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import pytest
import torch
from gate_formulas import SIZES, SLOPES, assert_same_numbers, gated_relu, gated_values, packed_gates, random_gates
from machine import Machine
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, Guarded, assert_same_bits
from torch import Tensor

LONG = 20_011  # several blocks, the last of them not full


def copy_in_guards(x: Tensor, offset: int = 0) -> Guarded:
    memory = Guarded(tuple(x.shape), x.dtype, offset)
    memory.tensor.copy_(x)
    return memory


def check_record(x: Tensor, slope: float, offset: int = 0, device: Device | None = None) -> None:
    bits, machine = packed_gates(x), Machine(device)
    y, recorded = machine.record_relu(x, slope, offset)
    assert torch.equal(recorded, bits)
    assert_same_numbers(y, gated_relu(x, bits, slope))
    memory = copy_in_guards(x, offset)
    assert torch.equal(machine.record_into(memory, memory.tensor, slope), bits)
    assert_same_bits([memory.tensor], [y])


def check_replay(x: Tensor, bits: Tensor, slope: float, offset: int = 0, device: Device | None = None) -> None:
    machine = Machine(device)
    y = machine.replay_relu(x, bits, slope, offset)
    assert_same_numbers(y, gated_relu(x, bits, slope))
    memory = copy_in_guards(x, offset)
    machine.replay_into(memory, memory.tensor, bits, slope)
    assert_same_bits([memory.tensor], [y])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*SIZES, LONG])
def test_record_and_replay(dtype, n):
    for slope in SLOPES:
        check_record(gated_values(n, dtype), slope)
        check_replay(gated_values(n, dtype), random_gates(n), slope)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 9, 1003])
def test_misaligned_tensors(dtype, n):
    """Tensors that start anywhere, together or not, and so does the memory of the gates."""
    for first, offset in [(1, 0), (0, 1), (3, 3), (5, 2)]:
        check_record(gated_values(n, dtype, first), 0.01, offset)
        bits = random_gates(n + 8 * first)[first:]
        check_replay(gated_values(n, dtype, first), bits, 0.01, offset)


@pytest.mark.parametrize("dtype", DTYPES)
def test_aligned_tensors_are_moved_in_packs(dtype):
    """Of 16 bytes: fewer blocks then."""
    machine = Machine()
    blocks = []
    for offset in (0, 1):
        _, bits = machine.record_relu(gated_values(LONG, dtype, offset), 0.0)
        record = machine.launches
        machine.replay_relu(gated_values(LONG, dtype, offset), bits, 0.0)
        assert len(record) == 1 and machine.launches == record
        blocks.append(record[0].blocks)
    pack = 16 // dtype.itemsize
    assert pack * (blocks[0] - 1) < blocks[1] <= pack * blocks[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_in_any_order(dtype, offset):
    """The same bits whoever runs first, and where blocks take several parts in turn."""
    x, bits = gated_values(LONG, dtype, offset), random_gates(LONG)
    for schedule, seed in SEEDED_SCHEDULES:
        device = Device(max_grid=2, schedule=schedule, seed=seed)
        check_record(x, 0.01, 0, device)
        check_replay(x, bits, 0.01, 0, device)


@pytest.mark.parametrize("slope", [-0.0, 1e-50])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_that_are_zero_or_only_round_to_it(dtype, slope):
    check_record(gated_values(100, dtype), slope)
    check_replay(gated_values(100, dtype), random_gates(100), slope)
