"""The CUDA kernel of sgr_step_length on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import pytest
import torch
from machine import Machine
from sgr_bench import cases
from sgr_bench.cases.case import Inputs
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, assert_same_bits

from sgr_kernels.operators.sgr_step_length import reference, sgr_step_length

CASES = cases.of(sgr_step_length)


def all_arguments(dtype: torch.dtype = torch.float32):
    for size in CASES.sizes:
        yield from CASES.arguments(size, Inputs(dtype, "cpu"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_reference(dtype):
    """Fewer rows than threads and more, other rows of the output, and none."""
    for arguments in all_arguments(dtype):
        expected = reference.sgr_step_length(*arguments)
        for mine, theirs in zip(Machine().sgr_step_length(*arguments), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)


def test_in_any_order():
    for arguments in all_arguments():
        expected = Machine().sgr_step_length(*arguments)
        for schedule, seed in SEEDED_SCHEDULES:
            machine = Machine(Device(schedule=schedule, seed=seed))
            assert_same_bits(list(expected), list(machine.sgr_step_length(*arguments)))


@pytest.mark.parametrize("place", range(6))
def test_nan_shows(place):
    """In whatever is given: a gain that cannot be told would be 1."""
    for arguments in all_arguments():
        if arguments[place] is not None:
            arguments[place].view(-1)[0] = torch.nan
            expected = reference.sgr_step_length(*arguments)
            for mine, theirs in zip(Machine().sgr_step_length(*arguments), expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0, equal_nan=True)
