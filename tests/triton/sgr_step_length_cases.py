"""Correctness of the Triton kernel of sgr_step_length. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import pytest
import torch
from helpers import DTYPES
from sgr_bench import cases
from sgr_bench.cases.case import Inputs
from triton_helpers import DEVICE

from sgr_kernels.operators.row_norms.reference import row_norms
from sgr_kernels.operators.sgr_step_length import reference, triton
from sgr_kernels.operators.sgr_step_length import sgr_step_length as operator
from sgr_kernels.operators.sgr_step_length.triton import sgr_step_length

CASES = cases.of(operator)


@pytest.fixture
def norms(monkeypatch):
    """By the reference: those of the kernels have cases of their own, for which the interpreter takes long."""
    monkeypatch.setattr(triton, "row_norms", row_norms)


def all_arguments(dtype: torch.dtype = torch.float32, sizes=CASES.sizes):
    for size in sizes:
        yield from CASES.arguments(size, Inputs(dtype, DEVICE))


def check(arguments: tuple) -> None:
    for mine, theirs in zip(sgr_step_length(*arguments), reference.sgr_step_length(*arguments), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_reference(norms, dtype):
    """Fewer rows than a step of the program and more, other rows of the output, and none."""
    for arguments in all_arguments(dtype):
        check(arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_the_norms_of_their_own_kernels(dtype):
    for arguments in all_arguments(dtype, CASES.sizes[:3]):
        check(arguments)


@pytest.mark.parametrize("place", range(6))
def test_nan_shows(norms, place):
    for arguments in all_arguments():
        if arguments[place] is not None:
            arguments[place].view(-1)[0] = torch.nan
            check(arguments)


@pytest.mark.parametrize("loss", [0.0, -1.0, torch.inf])
def test_a_loss_that_is_not_positive_tells_nothing(norms, loss):
    for _, *others in all_arguments():
        check((torch.tensor(loss, device=DEVICE), *others))


def test_of_nothing():
    empty = torch.zeros(0, dtype=torch.float64, device=DEVICE)
    rows = empty.view(0, 3)
    inverse, step = sgr_step_length(torch.ones((), device=DEVICE), empty.view(4, 0), rows, rows, None, None, *[1.0] * 5)
    assert inverse == 0 and step.shape == (2, 0)
