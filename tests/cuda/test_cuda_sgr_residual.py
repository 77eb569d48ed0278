"""How sgr_residual spreads rows over the blocks of a chip: the plan, the path it leads to, what is read and written."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from machine import Machine, Options, plan
from shim_library import DTYPES, SCHEDULES, Device, assert_same_bits
from torch import Tensor

from sgr_kernels.operators.sgr_residual import sgr_residual

H100 = Device()
A100 = Device(processors=108, shared_per_block=163 * 1024, shared_per_processor=164 * 1024)
CONSUMER = Device(processors=128, shared_per_block=99 * 1024, shared_per_processor=100 * 1024)
TURING = Device(processors=72, shared_per_block=64 * 1024, shared_per_processor=64 * 1024, reserved_shared=0)
SMALL = Device(processors=4, shared_per_block=9 * 1024, shared_per_processor=3 * 10 * 1024)  # 1,088 float32 a block

CHIPS = {"h100": H100, "a100": A100, "consumer": CONSUMER, "t4": TURING, "small": SMALL}


def gradients(shape, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", CHIPS.values(), ids=CHIPS)
def test_plans_keep_to_the_chip(device, dtype):
    """Every row has its blocks, which hold it and run at the same time; only what fits nowhere has no plan."""
    size = torch.empty((), dtype=dtype).element_size()
    for rows, cols in itertools.product((1, 5, 132, 1000, 100_000), (1, 63, 4096, 16384, 200_704, 802_816, 50_000_000)):
        found = plan(device, rows, cols, dtype)
        if found.parts == 0:
            slots = 3 * device.processors
            assert cols > slots * ((device.shared_per_processor // 3 - 1216) // (2 * size) - 64)
            continue
        assert (found.parts - 1) * found.slice < cols <= found.parts * found.slice
        assert found.shared_bytes >= 2 * found.slice * size
        assert found.shared_bytes <= device.shared_per_block
        assert found.blocks % found.parts == 0 and found.blocks <= rows * found.parts
        by_shared = device.shared_per_processor // (found.shared_bytes + device.reserved_shared)
        by_registers = 3 * 256 // found.threads  # 80 of them a thread
        assert found.blocks <= device.processors * min(by_shared, by_registers)


@pytest.mark.parametrize(
    ("rows", "cols", "parts", "under_way"),
    [
        (128, 4096, 1, 128),
        (4096, 4096, 1, 3 * 132),
        (128, 16384, 1, 128),  # a processor for each row
        (1024, 16384, 2, 198),
        (256, 200_704, 22, 18),
        (8, 200_704, 49, 8),  # all processors take part
        (256, 401_408, 43, 9),
        (256, 802_816, 85, 4),
        (4, 3_700_000, 389, 1),
        (4, 3_800_000, 0, 0),
    ],
)
def test_float32_on_an_h100(rows, cols, parts, under_way):
    found = plan(H100, rows, cols)
    assert (found.parts, found.blocks) == (parts, parts * under_way)


def test_the_rows_under_way_keep_memory_busy():
    """Three terabytes a second at a latency of a microsecond are 3 MB: wherever there are as many bytes, they are on
    their way at the same time, and at least half of the processors take part."""
    lengths = (4096, 8192, 16384, 50_176, 100_352, 200_704, 401_408, 802_816)
    for rows, cols in itertools.product((128, 256, 1024), lengths):
        found = plan(H100, rows, cols)
        assert found.blocks * found.slice * 8 >= 3e6
        assert found.blocks >= 66


@pytest.mark.parametrize(
    ("properties", "rows", "blocks"),
    [
        ({}, 3, [24]),  # 3 rows in teams of 8
        ({"processors": 3}, 3, [8]),  # one after the other
        ({"processors": 2}, 3, [3, 3]),  # 6 blocks in all: two sweeps
        ({"cooperative": 0}, 3, [3, 3]),
        ({"withheld": 131}, 3, [3, 3]),  # as in a green context, whose processors the device does not tell
        ({"most_resident": 1, "processors": 8}, 3, [3, 3]),  # less runs at the same time than shared memory allows
        ({"cooperative": 0, "shared_per_block": 80 * 1024, "shared_per_processor": 81 * 1024, "processors": 2}, 3, [2]),
    ],
)
def test_the_path_follows_the_device(properties, rows, blocks):
    delta, target = gradients((rows, 8192))
    fields = {"processors": 132, "shared_per_block": 9 * 1024, "shared_per_processor": 3 * 10 * 1024} | properties
    machine = Machine(Device(**fields))
    loss, v = machine.sgr_residual(delta, target, Options())
    expected = Machine().sgr_residual(delta, target, Options())
    torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)
    assert [launch.blocks for launch in machine.launches] == blocks
    teams = len(blocks) == 1 and blocks[0] >= 8
    assert [launch.cooperative for launch in machine.launches] == [teams] * len(blocks)


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_is_read_and_written_once(dtype):
    """Where a row fits on chip; else it is read twice. Aligned, so that all of it counts as traffic."""
    delta, target = gradients((7, 4096), dtype)
    once = 2 * delta.numel() * delta.element_size()
    for device in (H100, SMALL):
        machine = Machine(device)
        _, v = machine.sgr_residual(delta, target, Options())
        assert len(machine.launches) == 1
        assert (machine.traffic.read, machine.traffic.written) == (once, v.numel() * v.element_size())
    machine = Machine(Device(shared_per_block=1024, shared_per_processor=1024, cooperative=0))
    machine.sgr_residual(delta, target, Options())
    assert machine.traffic.read == (3 if dtype == torch.float64 else 2) * once


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_follow_each_other_in_a_team(dtype, schedule):
    """The next row takes the place of the one being written; where it is aligned otherwise, it waits."""
    for cols, offset in [(4096, 0), (4099, 0), (4096, 1)]:
        delta, target = gradients((5, cols), dtype)
        expected = Machine(Device(processors=4)).sgr_residual(delta, target, Options(), offset)
        teams = Machine(Device(**vars(SMALL) | {"schedule": schedule}))
        loss, v = teams.sgr_residual(delta, target, Options(), offset)
        assert teams.launches[0].blocks < 5 * math.ceil(cols / 1088)  # more rows than teams
        torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("device", [H100, SMALL], ids=["one block", "team"])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_captured_launch_takes_nothing_over_from_the_last_time(device, rows):
    """Neither sums nor losses, though it finds its own stamp in memory."""
    before, _ = gradients((rows, 4096))
    delta, target = gradients((rows, 4096))
    for schedule in SCHEDULES:
        machine = Machine(Device(**vars(device) | {"schedule": schedule}))
        again = machine.sgr_residual_again(before, delta, target, Options())
        assert_same_bits(list(machine.sgr_residual(delta, target, Options())), list(again))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [H100, A100, CONSUMER], ids=["h100", "a100", "consumer"])
def test_the_comparison_before_the_first_call_takes_every_path(device, dtype):
    """Rows alone in a block, one after the other, and shared by a team, with and without normalize."""
    for normalize in True, False:
        shapes = {delta.shape for delta, _, unit, *_ in sgr_residual.example(dtype) if unit == normalize}
        plans = [(rows, plan(device, rows, cols, dtype)) for rows, cols in shapes]
        assert any(found.parts == 1 and found.blocks == rows for rows, found in plans)
        assert any(found.parts == 1 and found.blocks < rows for rows, found in plans)
        assert any(found.parts > 1 for rows, found in plans)
