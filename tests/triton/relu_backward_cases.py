"""Correctness of the Triton kernels of relu_backward: the gate of a ReLU, and its sums. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import DTYPES, any_order_sum_error, assert_as_exact_as, upcast
from triton_helpers import DEVICE, normal, widest

from sgr_kernels.operators.relu_backward import triton as gate


def check_gate(grad, output) -> None:
    """The gate is that of torch, its sums are as exact as sums of torch in float32 (float64 for float64)."""
    masked, sums = gate.relu_backward(grad, output, True)
    assert masked.is_contiguous() and masked.dtype == grad.dtype
    assert sums.shape == grad.shape[1:2] and sums.dtype == widest(grad.dtype)
    expected = torch.ops.aten.threshold_backward(grad, output, 0)
    assert torch.equal(masked, expected)
    any_order = any_order_sum_error(expected, (0, 2))
    assert_as_exact_as(sums, expected.to(sums.dtype).sum((0, 2)), upcast(expected).sum((0, 2)), any_order)
    alone, none = gate.relu_backward(grad, output, False)
    assert torch.equal(alone, expected)
    assert none.shape == (0,) and none.dtype == sums.dtype


@pytest.mark.parametrize(
    "shape",
    [
        (5, 7, 1),
        (300, 3, 1),  # several tiles of rows,
        (90, 520, 1),  # and of channels
        (3, 5, 49),
        (33, 6, 16),  # several rows and channels a tile
        (2, 3, 5000),  # several tiles of positions
        (1, 1, 1),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_and_its_sums(dtype, shape):
    check_gate(normal(*shape, dtype=dtype), normal(*shape, dtype=dtype))


@pytest.mark.parametrize("shape", [(70, 300, 1), (9, 5, 300), (2, 2, 9000)])
@pytest.mark.parametrize("programs", [1, 200])
def test_gate_by_one_and_by_many_programs(monkeypatch, shape, programs):
    monkeypatch.setattr(gate, "PROGRAMS", programs)
    monkeypatch.setattr(gate, "_MIN_STEPS", 1)
    monkeypatch.setattr(gate, "_TILE", 256)
    check_gate(normal(*shape), normal(*shape))


@pytest.mark.parametrize("tiles", [1, 3, 40, 5000])
@pytest.mark.parametrize("steps", [1, 2, 7, 4096, 3_000_000])
def test_splits_of_the_gate_cover_all_steps_once(tiles, steps):
    splits, chunk = gate._split(tiles, steps)
    assert (splits - 1) * chunk < steps <= splits * chunk
    assert splits == 1 or chunk >= gate._MIN_STEPS


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_at_zero_nan_and_inf(dtype):
    """Closed at 0 and below, open for NaN; what does not pass leaves no trace, what passes is not touched."""
    tiny = torch.finfo(dtype).tiny
    output = torch.tensor([0.0, -0.0, -tiny, -math.inf, tiny, math.inf, math.nan, 1.0], dtype=dtype, device=DEVICE)
    grad = torch.tensor([math.nan, math.inf, -math.inf, math.nan, 2.0, -3.0, 4.0, -math.inf], device=DEVICE).to(dtype)
    for shape in ((8, 1, 1), (1, 8, 1), (1, 1, 8)):
        masked, sums = gate.relu_backward(grad.view(shape), output.view(shape), True)
        assert masked.flatten().tolist() == [0, 0, 0, 0, 2, -3, 4, -math.inf]
        assert torch.equal(sums, masked.to(sums.dtype).sum((0, 2)))
    masked, sums = gate.relu_backward(grad.view(8, 1, 1), torch.ones_like(output).view(8, 1, 1), True)
    assert torch.equal(masked.flatten().isnan(), grad.isnan()) and sums.isnan().all()


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_gate_of_nothing(shape):
    masked, sums = gate.relu_backward(normal(*shape), normal(*shape), True)
    assert masked.shape == shape
    assert sums.shape == (shape[1],) and not sums.any()
