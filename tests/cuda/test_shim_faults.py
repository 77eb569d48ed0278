"""The simulated device must notice what it is there for: every fault is found, sound kernels pass."""

from __future__ import annotations

import ctypes
import functools

import pytest
import torch
from shim_library import HERE, SCHEDULES, build

NEIGHBOURS = torch.arange(64.0).roll(-32).double()


@functools.cache
def faults() -> ctypes.CDLL:
    return build([HERE / "faults.cpp"])


def run(fault: int, schedule: str = "forward") -> tuple[int, str, torch.Tensor]:
    out = torch.zeros(130, dtype=torch.float64)
    out = out[(out.data_ptr() // 8) % 2 :][:128]
    status = faults().run_fault(fault, SCHEDULES[schedule], ctypes.c_void_p(out.data_ptr()))
    return status, faults().shim_failure().decode(), out


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sound_kernels_pass(schedule):
    status, failure, out = run(0, schedule)
    assert (status, failure) == (0, "") and torch.equal(out[:64], NEIGHBOURS)
    status, failure, out = run(2, schedule)
    assert (status, failure) == (0, "") and not out.any()
    assert run(4, schedule)[:2] == (0, "")
    status, failure, out = run(10, schedule)
    assert (status, failure) == (0, "") and out[2] == 2
    status, failure, out = run(12, schedule)
    assert (status, failure) == (0, "") and out[0] == 100


def test_a_missing_barrier_shows_in_the_result():
    results = [run(1, schedule)[2][:64] for schedule in SCHEDULES]
    assert not all(torch.equal(result, NEIGHBOURS) for result in results)


def test_a_ticket_taken_before_all_have_written_shows_in_the_result():
    assert any(run(11, schedule)[2][2] != 2 for schedule in SCHEDULES)


def test_a_copy_that_nobody_waits_for_shows_in_the_result():
    results = [run(3, schedule)[2] for schedule in SCHEDULES]
    assert any(result.isnan().any() for result in results)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (5, "ticket taken without a fence"),
        (6, "write past the end of shared memory"),
        (7, "threads wait for what others never do"),
        (13, "threads wait for what others never do"),
        (8, "misaligned access"),
    ],
)
def test_faults_are_named(fault, message):
    status, failure, _ = run(fault)
    assert status != 0 and failure == message


def test_too_much_shared_memory_is_refused():
    """More than 48 KiB must be asked for."""
    assert run(9)[0] != 0


def test_blocks_that_rely_on_the_order_of_their_start_show_it():
    assert run(14, "forward")[0] == 0
    assert run(14, "reverse")[0] != 0
