"""How sgr_residual spreads rows over the blocks of a chip: the plan, the path it leads to, what is read and written."""

from __future__ import annotations

import itertools

import pytest
import torch
from machine import Machine, Options, Turns, plan, turn_of, turns
from shim_library import DTYPES, SCHEDULES, Device, assert_same_bits
from torch import Tensor

from sgr_kernels.operators.sgr_residual import sgr_residual

H100 = Device()
A100 = Device(processors=108, shared_per_block=163 * 1024, shared_per_processor=164 * 1024)
CONSUMER = Device(processors=128, shared_per_block=99 * 1024, shared_per_processor=100 * 1024)
TURING = Device(processors=72, shared_per_block=64 * 1024, shared_per_processor=64 * 1024, reserved_shared=0)
# A block holds 3000 float32 of each input, and a processor two such blocks.
SMALL = Device(processors=4, shared_per_block=24 * 1024, shared_per_processor=50 * 1024)

CHIPS = {"h100": H100, "a100": A100, "consumer": CONSUMER, "t4": TURING, "small": SMALL}


def gradients(shape, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(shape, dtype=torch.float64).to(dtype) for _ in range(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", CHIPS.values(), ids=CHIPS)
def test_plans_keep_to_the_chip(device, dtype):
    """A row has a block that holds it; what is left to others would leave no room for a second block."""
    size = torch.empty((), dtype=dtype).element_size()
    for rows, cols in itertools.product((1, 5, 132, 1000, 100_000), (1, 63, 4096, 16384, 200_704, 802_816, 50_000_000)):
        found = plan(device, rows, cols, dtype)
        if found.blocks == 0:
            assert (cols + 64) * 2 * size + 192 > device.shared_per_processor / 2 - device.reserved_shared
            continue
        assert found.shared_bytes <= device.shared_per_block
        assert found.threads % 32 == 0 and found.blocks <= rows
        by_shared = device.shared_per_processor // (found.shared_bytes + device.reserved_shared)
        by_registers = 3 * 256 // found.threads  # 80 of them a thread
        assert found.blocks <= device.processors * min(by_shared, by_registers)
        assert cols <= found.slice and found.shared_bytes >= 2 * found.slice * size


@pytest.mark.parametrize(
    ("rows", "cols", "blocks", "threads"),
    [
        (128, 4096, 128, 256),
        (512, 4096, 512, 192),  # all rows at once, four on a processor
        (4096, 4096, 6 * 132, 128),
        (1024, 256, 1024, 64),
        (128, 16384, 128, 256),  # a processor for each row
        (1024, 16384, 0, 0),
        (256, 200_704, 0, 0),
    ],
)
def test_float32_on_an_h100(rows, cols, blocks, threads):
    found = plan(H100, rows, cols)
    assert (found.blocks, found.threads) == (blocks, threads)


@pytest.mark.parametrize(
    ("rows", "cols", "pieces", "ahead"),
    [
        (1024, 16384, 4, 114),
        (256, 200_704, 49, 9),
        (256, 802_816, 196, 2),
        (4, 200_704, 49, 4),  # all that there are
        (4, 50_000_000, 12208, 1),  # the cache does not hold a row
    ],
)
def test_turns_of_float32_on_an_h100(rows, cols, pieces, ahead):
    found = turns(H100, rows, cols)
    assert (found.pieces, found.slice, found.ahead) == (pieces, 4096, ahead)


@pytest.mark.parametrize(("rows", "ahead"), [(1, 1), (5, 1), (5, 2), (5, 4), (5, 5)])
def test_every_piece_has_its_turns(rows, ahead):
    """Once in sums and once, after all pieces of its row, in v; between the two are no more rows than are ahead."""
    order = [turn_of(block, Turns(3, 64, rows, ahead)) for block in range(2 * 3 * rows)]
    summed = [(turn.row, turn.piece) for turn in order if turn.summing]
    written = [(turn.row, turn.piece) for turn in order if not turn.summing]
    assert summed == written == list(itertools.product(range(rows), range(3)))
    for row in range(rows):
        last_sum = max(at for at, turn in enumerate(order) if turn.summing and turn.row == row)
        first_write = min(at for at, turn in enumerate(order) if not turn.summing and turn.row == row)
        between = {turn.row for turn in order[last_sum + 1 : first_write] if turn.summing}
        assert last_sum < first_write and len(between) <= ahead


def test_the_copies_under_way_keep_memory_busy():
    """Three terabytes a second at a latency of a microsecond are 3 MB, two thirds of them read: where there are as many
    bytes, they are on their way at the same time."""
    for rows, cols in itertools.product((128, 256, 1024), (4096, 8192)):
        found = plan(H100, rows, cols)
        assert found.blocks * found.slice * 8 >= 2e6
        assert found.blocks >= 128


@pytest.mark.parametrize(
    ("properties", "cols", "blocks"),
    [
        ({}, 1024, [3]),  # a row fits into the registers of a block
        ({}, 1021, [3]),  # into its shared memory, as nothing is aligned
        ({}, 4097, [2 * 3 * 2]),  # turns
        ({}, 8192, [2 * 3 * 2]),
        ({"max_grid": 5}, 8192, [3, 3]),  # sums, then v
        ({"shared_per_block": 48 * 1024, "processors": 3}, 4097, [3]),
    ],
)
def test_the_path_follows_the_device(properties, cols, blocks):
    delta, target = gradients((3, cols))
    machine = Machine(Device(**vars(SMALL) | properties))
    loss, v = machine.sgr_residual(delta, target, Options())
    expected = Machine().sgr_residual(delta, target, Options())
    torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)
    assert [launch.blocks for launch in machine.launches] == blocks


@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_is_read_and_written_once(dtype):
    """Where a row fits into a block; else it is read twice. Aligned, so that all of it counts as traffic."""
    delta, target = gradients((7, 8192), dtype)
    once = 2 * delta.numel() * delta.element_size()
    for device, times in ((H100, 1), (SMALL, 3 if dtype == torch.float64 else 2)):
        machine = Machine(device)
        _, v = machine.sgr_residual(delta, target, Options())
        assert len(machine.launches) == (3 if times == 3 else 1)
        assert (machine.traffic.read, machine.traffic.written) == (times * once, v.numel() * v.element_size())


@pytest.mark.parametrize(("rows", "size", "in_turns"), [(23, 4000, False), (5, 16448, True)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_follow_each_other(schedule, dtype, rows, size, in_turns):
    """More rows than blocks: the next row takes the place of the one being written, or waits where it is aligned
    otherwise. By turns, in a cache of two rows: more than start at a time, of which the last of a row has little.
    ``size`` is that of a row in bytes."""
    device = Device(**vars(SMALL) | {"schedule": schedule, "cache": 14 * size})
    cols = size // torch.empty((), dtype=dtype).element_size()
    options = Options(normalize=dtype != torch.float64)
    for width, offset in [(cols // 8 * 8, 0), (cols // 8 * 8 + 3, 0), (cols // 8 * 8, 1)]:
        assert (plan(device, rows, width, dtype).blocks == 0) == in_turns
        delta, target = gradients((rows, width), dtype)
        expected = Machine().sgr_residual(delta, target, options, offset)
        machine = Machine(device)
        loss, v = machine.sgr_residual(delta, target, options, offset)
        assert len(machine.launches) == 1 and (machine.launches[0].blocks < rows) != in_turns
        torch.testing.assert_close((loss, v), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("device", [H100, SMALL], ids=["one block", "turns"])
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
    """Rows in registers, alone in a block, one after the other, and by turns, with and without normalize."""
    for normalize in True, False:
        shapes = {delta.shape for delta, _, unit, *_ in sgr_residual.example(dtype) if unit == normalize}
        plans = [(rows, plan(device, rows, cols, dtype)) for rows, cols in shapes]
        assert any(rows <= device.processors and cols % 8 == 0 and cols <= 1024 for rows, cols in shapes)
        assert any(found.blocks == rows for rows, found in plans)
        assert any(0 < found.blocks < rows for rows, found in plans)
        assert any(found.blocks == 0 for rows, found in plans)
