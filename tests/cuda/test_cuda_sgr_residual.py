"""How sgr_residual spreads rows over the blocks of a chip: the plan, the path it leads to, what is read and written."""

from __future__ import annotations

import itertools

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
# A block holds five pieces of 512 float32.
SMALL = Device(processors=4, shared_per_block=24 * 1024, shared_per_processor=50 * 1024)

CHIPS = {"h100": H100, "a100": A100, "consumer": CONSUMER, "t4": TURING, "small": SMALL}


def gradients(shape, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", CHIPS.values(), ids=CHIPS)
def test_plans_keep_to_the_chip(device, dtype):
    """Rows have their blocks, which hold them and run at the same time; only what fits nowhere has no plan."""
    size = torch.empty((), dtype=dtype).element_size()
    for rows, cols in itertools.product((1, 5, 132, 1000, 100_000), (1, 63, 4096, 16384, 200_704, 802_816, 50_000_000)):
        found = plan(device, rows, cols, dtype)
        if found.pieces == 0:
            assert cols * 2 * size > device.processors * device.shared_per_processor / 8
            continue
        assert (found.pieces - 1) * found.slice < cols <= found.pieces * found.slice
        assert found.shared_bytes <= device.shared_per_block
        assert found.threads % 32 == 0 and found.blocks <= rows * found.pieces
        by_shared = device.shared_per_processor // (found.shared_bytes + device.reserved_shared)
        by_registers = 3 * 256 // found.threads  # 80 of them a thread
        assert found.blocks <= device.processors * min(by_shared, by_registers)
        if found.pieces == 1:
            assert found.shared_bytes >= 2 * found.slice * size
        else:  # the copies on their way, the piece that is summed, those that wait for their row
            assert found.shared_bytes >= (2 + 1 + found.lag) * 2 * found.slice * size
            assert found.lag > (found.pieces - 1) / found.blocks


@pytest.mark.parametrize(
    ("rows", "cols", "pieces", "blocks", "threads"),
    [
        (128, 4096, 1, 128, 256),
        (512, 4096, 1, 512, 192),  # all rows at once, four on a processor
        (4096, 4096, 1, 6 * 132, 128),
        (1024, 256, 1, 1024, 64),
        (128, 16384, 1, 128, 256),  # a processor for each row
        (1024, 16384, 8, 264, 256),
        (256, 200_704, 98, 264, 256),
        (256, 802_816, 392, 264, 256),
        (4, 1_600_000, 782, 264, 256),
        (4, 3_200_000, 6250, 264, 256),
        (4, 3_300_000, 0, 0, 0),
    ],
)
def test_float32_on_an_h100(rows, cols, pieces, blocks, threads):
    found = plan(H100, rows, cols)
    assert (found.pieces, found.blocks, found.threads) == (pieces, blocks, threads)


def test_the_copies_under_way_keep_memory_busy():
    """Three terabytes a second at a latency of a microsecond are 3 MB, two thirds of them read: where there are as many
    bytes, they are on their way at the same time."""
    lengths = (4096, 8192, 16384, 50_176, 100_352, 200_704, 401_408, 802_816)
    for rows, cols in itertools.product((128, 256, 1024), lengths):
        found = plan(H100, rows, cols)
        copies = 1 if found.pieces == 1 else 2
        assert copies * found.blocks * found.slice * 8 >= 2e6
        assert found.blocks >= 128


@pytest.mark.parametrize(
    ("properties", "cols", "blocks"),
    [
        ({}, 2048, [3]),  # a row fits into a block
        ({}, 4096, [8]),  # pieces
        ({"processors": 3}, 4096, [3, 3]),  # 6 blocks cannot keep the 8 pieces of a row and those that follow
        ({"cooperative": 0}, 4096, [3, 3]),
        ({"withheld": 3}, 4096, [3, 3]),  # as in a green context, whose processors the device does not tell
        ({"most_resident": 1}, 4096, [3, 3]),  # less runs at the same time than shared memory allows
        ({"cooperative": 0, "shared_per_block": 48 * 1024, "processors": 2}, 4096, [2]),
    ],
)
def test_the_path_follows_the_device(properties, cols, blocks):
    delta, target = gradients((3, cols))
    machine = Machine(Device(**vars(SMALL) | properties))
    loss, v = machine.sgr_residual(delta, target, Options())
    expected = Machine().sgr_residual(delta, target, Options())
    torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)
    assert [launch.blocks for launch in machine.launches] == blocks
    assert [launch.cooperative for launch in machine.launches] == [blocks == [8]] * len(blocks)


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_is_read_and_written_once(dtype):
    """Where a row fits on chip; else it is read twice. Aligned, so that all of it counts as traffic."""
    delta, target = gradients((7, 4096), dtype)
    once = 2 * delta.numel() * delta.element_size()
    for device in (H100, SMALL):
        if (device, dtype) == (SMALL, torch.float64):
            continue  # rows that are read twice for their sums are not cut into pieces
        machine = Machine(device)
        _, v = machine.sgr_residual(delta, target, Options())
        assert len(machine.launches) == 1
        assert (machine.traffic.read, machine.traffic.written) == (once, v.numel() * v.element_size())
    machine = Machine(Device(shared_per_block=1024, shared_per_processor=1024, cooperative=0))
    machine.sgr_residual(delta, target, Options())
    assert machine.traffic.read == (3 if dtype == torch.float64 else 2) * once


@pytest.mark.parametrize(("rows", "size", "pieces"), [(23, 4000, 1), (5, 16448, 9)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_follow_each_other(schedule, dtype, rows, size, pieces):
    """More rows than blocks: the next row takes the place of the one being written, or waits where it is aligned
    otherwise. More pieces than blocks, of which the last of a row is short. ``size`` is that of a row in bytes."""
    device = Device(**vars(SMALL) | {"schedule": schedule})
    cols = size // torch.empty((), dtype=dtype).element_size()
    options = Options(normalize=dtype != torch.float64)
    for width, offset in [(cols // 8 * 8, 0), (cols // 8 * 8 + 3, 0), (cols // 8 * 8, 1)]:
        assert plan(device, rows, width, dtype).pieces == pieces
        delta, target = gradients((rows, width), dtype)
        expected = Machine().sgr_residual(delta, target, options, offset)
        machine = Machine(device)
        loss, v = machine.sgr_residual(delta, target, options, offset)
        assert len(machine.launches) == 1 and machine.launches[0].blocks < rows * pieces
        torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("device", [H100, SMALL], ids=["one block", "pieces"])
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
    """Rows alone in a block, one after the other, and in pieces, with and without normalize."""
    for normalize in True, False:
        shapes = {delta.shape for delta, _, unit, *_ in sgr_residual.example(dtype) if unit == normalize}
        plans = [(rows, plan(device, rows, cols, dtype)) for rows, cols in shapes]
        assert any(found.pieces == 1 and found.blocks == rows for rows, found in plans)
        assert any(found.pieces == 1 and found.blocks < rows for rows, found in plans)
        assert any(found.pieces > 1 for rows, found in plans)
