"""Long rows of sgr_residual, whose programs take turns: see `_long_residual_kernel`. Here "long" is short."""

from __future__ import annotations

import pytest
import torch
from helpers import DTYPES, assert_as_exact_as, exact_value_and_grads, plain_sgr_loss, value_and_grads
from triton_helpers import normal, widest

from sgr_kernels.operators.sgr_residual import triton as kernels

BLOCK = 256
N = 2 * BLOCK + 5


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(kernels, "_RESIDENT", {torch.float32: BLOCK, torch.float64: BLOCK})
    monkeypatch.setattr(kernels, "_CHUNK", BLOCK * 4)
    vector = {"BLOCK": BLOCK, "VECTOR": 1, "num_warps": 1}
    monkeypatch.setattr(kernels, "launch_options", lambda delta, n: vector)


def check(delta, target, normalize=True):
    loss, v = kernels.sgr_residual(delta, target, normalize, 0, 0.0, None, 1e-12)
    options = {"normalize": normalize}
    plain = value_and_grads(lambda d, g: plain_sgr_loss(d, g, **options), delta, target)
    truth = exact_value_and_grads(delta, target, **options)
    assert loss.dtype == v.dtype == widest(delta.dtype)
    assert_as_exact_as(loss, plain[0], truth[0])
    assert_as_exact_as(v, plain[1], truth[1])


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_sums_run_ahead_of_v(monkeypatch, rows, ahead):
    """By any number of rows. The interpreter runs programs in order: one that waited for a later one would not end."""
    monkeypatch.setattr(kernels, "_AHEAD", 8 * N * ahead)
    check(normal(rows, N), normal(rows, N))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(monkeypatch, dtype, normalize):
    """Chunks of one, two and four blocks."""
    monkeypatch.setattr(kernels, "_AHEAD", 1)
    monkeypatch.setattr(kernels, "_CHUNK", BLOCK * 8)
    check(normal(3, 5 * BLOCK + 3, dtype=dtype), normal(3, 5 * BLOCK + 3, dtype=dtype), normalize)


def test_more_partial_sums_than_threads():
    check(normal(1, 33 * BLOCK), normal(1, 33 * BLOCK))


def test_the_batch_does_not_change_a_row():
    """Sums run over chunks that depend on the length of a row alone."""
    delta, target = normal(5, N), normal(5, N)
    arguments = (True, 2, 0.0, None, 1e-12)
    _, v = kernels.sgr_residual(delta, target, *arguments)
    _, few = kernels.sgr_residual(delta[2:4], target[2:4], *arguments)
    assert torch.equal(v[2:4], few)
