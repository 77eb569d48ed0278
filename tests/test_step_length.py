"""sgr_step_length on every backend: the numbers that decide, and those that must show."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import device_of
from sgr_bench import cases
from sgr_bench.cases.case import Inputs

import sgr_kernels as sk
from sgr_kernels.operators.sgr_step_length import reference, sgr_step_length

CASES = cases.of(sgr_step_length)
LAW = 1.0, 0.01, 0.05, 0.75, 10.0


def all_arguments(backend: str):
    for size in CASES.sizes:
        yield from CASES.arguments(size, Inputs(torch.float32, device_of(backend)))


def rows(backend: str, **changed) -> list:
    """Two samples of one element, with numbers that are easily followed: rho = 2, no gain; and what is changed."""
    given = {"loss": 0.0, "coef": [[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [2.0, 2.0]], "x": [1.0, 1.0]}
    given |= {"delta": [1.0, 1.0], "output": [1.0, 1.0], "delta_output": [1.0, 1.0], **changed}
    as_tensor = {"device": device_of(backend), "dtype": torch.float64}
    loss, coef, *ends = (None if value is None else torch.tensor(value, **as_tensor) for value in given.values())
    return [loss, coef, *(end if end is None else end.unsqueeze(1) for end in ends)]


def inverse(backend: str, **changed) -> float:
    with sk.backend(backend):
        found, step = sgr_step_length(*rows(backend, **changed), *LAW)
    coef = rows(backend, **changed)[1]
    expected = coef[:2] / found if found != 0 else torch.zeros_like(coef[:2])
    torch.testing.assert_close(step, expected, equal_nan=True)
    return float(found)


def test_follows_the_law(backend):
    """curvature / typical, or the furthest sample / longest."""
    assert inverse(backend) == pytest.approx(2 / 0.01)
    assert inverse(backend, delta_output=[1 / 16, 1 / 16]) == pytest.approx(2 * 16**0.75 / 0.01)  # a gain of 16
    assert inverse(backend, output=None, delta_output=None) == pytest.approx(2 / 0.01)
    assert inverse(backend, output=[1.0], delta_output=[2**0.5]) == pytest.approx(2 * 2**0.375 / 0.01)  # one row of it
    assert inverse(backend, loss=1.0) == pytest.approx((2 * (2 + 2)) ** 0.5 / 0.01)  # each part changes it by 1
    assert inverse(backend, loss=1e-9) == pytest.approx((2 * (2 + 20)) ** 0.5 / 0.01)  # no more than that
    assert inverse(backend, delta=[1.0, 1e-9], output=None, delta_output=None, x=[1.0, 1e-6]) == pytest.approx(
        2e6 / 0.05
    )


def test_without_a_direction_the_step_is_0(backend):
    assert inverse(backend, coef=[[0.0, 0.0]] * 4) == 0
    assert inverse(backend, x=[0.0, 0.0], output=None, delta_output=None) == 0
    assert inverse(backend, x=[0.0, 1.0], output=None, delta_output=None, delta=[0.0, 1.0]) == pytest.approx(2 / 0.01)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(6))
def test_what_is_not_finite_is_that_of_the_reference(backend, place, value):
    for arguments in all_arguments(backend):
        if arguments[place] is not None:
            arguments[place].view(-1)[0] = value
            with sk.backend(backend):
                found = sgr_step_length(*arguments)
            for mine, theirs in zip(found, reference.sgr_step_length(*arguments), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0, equal_nan=True)


def test_nan_in_a_sample_shows(backend):
    for changed in {"coef": [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [2.0, math.nan]]}, {"x": [1.0, math.nan]}:
        assert math.isnan(inverse(backend, **changed))


def test_refuses_what_does_not_fit():
    if sk.backends()["cpu"] != "ok":
        pytest.skip("the C++ operators are not built")
    loss, coef, x, *others = rows("cpu")
    with sk.backend("cpu"):
        for arguments in (
            (loss, coef[:3], x, *others),
            (loss, coef.float(), x, *others),
            (loss, coef, x[:1], *others),
            (loss, coef, x.int(), *others),
            (loss, coef, x[:, 0], *others),
            (loss, coef, x, *others[:-1], others[-1][:1]),
            (loss.expand(2), coef, x, *others),
            (loss, coef, x, *others[:-1], None),
        ):
            with pytest.raises(RuntimeError, match="coef|x|loss|delta_output|expected float64"):
                sgr_step_length(*arguments, *LAW)
