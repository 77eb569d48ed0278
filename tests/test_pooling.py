"""The pooling of local heads: the mean over positions, with a gradient that takes no memory."""

from __future__ import annotations

import pytest
import torch
from sgr_train.memory.live import peak_live_bytes
from torch.overrides import TorchFunctionMode

from sgr_kernels.modules import average_positions


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2), (0, 4, 3), (2, 3, 0)])
def test_is_the_mean_over_positions(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = x.flatten(2).mean(2) if x.dim() > 2 else x
    torch.testing.assert_close(average_positions(x), expected, equal_nan=True)
    if x.numel():
        assert torch.autograd.gradgradcheck(average_positions, x) and torch.autograd.gradcheck(average_positions, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_halves_do_not_overflow(dtype):
    x = torch.full((1, 1, 64, 64), 100.0, dtype=dtype)  # the sum is larger than float16 goes
    assert average_positions(x).dtype == dtype and average_positions(x).item() == 100.0


def test_gradient_is_a_view():
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    gradient = torch.randn(2, 3)

    def backward():
        return torch.autograd.grad(average_positions(x), x, gradient)

    assert backward()[0].untyped_storage().nbytes() < x.nbytes / 64
    assert peak_live_bytes(backward) < x.nbytes / 64


def test_modes_see_one_call():
    """Every call that the directional engine sees takes as long as a small layer."""
    seen = []

    class Seeing(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seeing():
        average_positions(torch.ones(2, 3, 4, 4))
    assert seen[1:] == [average_positions]  # behind torch.ones
