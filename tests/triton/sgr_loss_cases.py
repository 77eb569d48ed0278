"""Correctness of the Triton kernels, called through their host functions.

Runs on a GPU, or in Triton's interpreter on the CPU in a process that has TRITON_INTERPRET=1.
test_triton_interpreter.py starts both; `pytest tests/triton/sgr_loss_cases.py` runs the cases alone.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from helpers import (
    DTYPES,
    any_order_errors,
    assert_as_exact_as,
    assert_lengths,
    exact_value_and_grads,
    plain_sgr_loss,
    upcast,
    value_and_grads,
)

from sgr_kernels.operators.common import triton_rows
from sgr_kernels.operators.sgr_loss import triton as kernels
from sgr_kernels.operators.sgr_residual.triton import sgr_residual

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
REDUCTIONS = ("mean", "batchmean", "sum")


def rows(shape, dtype=torch.float32, noise: float | None = None):
    delta = torch.randn(shape, dtype=torch.float64)
    other = torch.randn(shape, dtype=torch.float64)
    target = other if noise is None else delta + noise * other
    return delta.to(DEVICE, dtype), target.to(DEVICE, dtype)


def run(delta, target, *, normalize=True, reduction="mean", floor=0.0, eps=1e-12):
    """Loss and both gradients by sgr_loss and its backward; loss and v by sgr_residual; |v_b|."""
    number, tensor = (0.0, floor) if isinstance(floor, torch.Tensor) else (floor, None)
    options = (normalize, REDUCTIONS.index(reduction), number, tensor, eps)
    loss, coef = kernels.sgr_loss(delta, target, *options)
    alpha, beta, alpha_target, lengths = coef
    one = torch.ones_like(loss)
    grad_delta = kernels.sgr_loss_backward(one, delta, target, alpha, beta)
    grad_target = kernels.sgr_loss_backward(one, target, delta, alpha_target, beta)
    return loss, grad_delta, grad_target, *sgr_residual(delta, target, *options), lengths


def check(delta, target, **options) -> None:
    """As exact as plain torch in the same dtype, measured against extended precision."""
    loss, grad_delta, grad_target, residual, v, lengths = run(delta, target, **options)
    widest = torch.float64 if delta.dtype == torch.float64 else torch.float32
    assert loss.shape == residual.shape == ()
    assert loss.dtype == residual.dtype == v.dtype == widest
    assert grad_delta.dtype == grad_target.dtype == delta.dtype
    assert grad_delta.is_contiguous() and grad_target.is_contiguous() and v.is_contiguous()
    plain = value_and_grads(lambda d, g: plain_sgr_loss(d, g, **options), delta, target)
    truth = exact_value_and_grads(delta, target, **options)
    any_order = any_order_errors(delta, target, **options)
    for result, index in ((loss, 0), (grad_delta, 1), (grad_target, 2), (residual, 0), (v, 1)):
        assert_as_exact_as(result, plain[index], truth[index], any_order[index])
    assert_lengths(lengths, truth[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_plain_torch(dtype, normalize, reduction):
    check(*rows((5, 333), dtype), normalize=normalize, reduction=reduction)


@pytest.mark.parametrize("shape", [(7, 2), (3, 256), (2, 2048), (3, 2049), (2, 4097), (2, 16384), (2, 16385)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shapes_around_blocks_and_chunks(shape, dtype):
    check(*rows(shape, dtype))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_split_over_programs(dtype, normalize):
    assert triton_rows.split_rows(1, 20003)[0] > 1
    check(*rows((1, 20003), dtype), normalize=normalize, reduction="batchmean")


@pytest.mark.parametrize("shape", [(9, 70), (3, 9000)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_rows(monkeypatch, shape, dtype):
    """Coefficients by several programs, whose losses a further kernel adds up. A small tile stands for many rows."""
    monkeypatch.setattr(kernels, "_TILE", 4)
    check(*rows(shape, dtype))


@pytest.mark.parametrize("batch", [1, 3, 32, 1000, 5000])
@pytest.mark.parametrize("n", [1, 2049, 16384, 802816, 50_000_000])
def test_splits_cover_a_row_once(batch, n):
    splits, chunk = triton_rows.split_rows(batch, n)
    assert (splits - 1) * chunk < n <= splits * chunk
    assert chunk % triton_rows._BLOCK == 0
    assert splits <= kernels._TILE  # the partial sums of a row are added up by one program
    longest = max(triton_rows._MIN_CHUNK, triton_rows._BLOCK + batch * n // triton_rows.PROGRAMS)
    assert chunk <= longest


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_near_parallel_rows_keep_their_digits(dtype, noise):
    check(*rows((4, 4096), dtype, noise=noise))


def test_near_parallel_long_rows_keep_their_digits_in_float64():
    check(*rows((1, 20003), torch.float64, noise=1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1000, 4097])
def test_equal_rows_have_no_loss(dtype, n):
    delta, _ = rows((6, n), dtype)
    loss, _, _, residual, *_ = run(delta, delta.clone())
    assert loss == residual == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [40, 4097])
def test_rounding_never_makes_the_loss_negative(dtype, n):
    """Multiples of a row by factors that are not powers of two: the cosine comes out above 1 about every other time."""
    delta, _ = rows((1, n), dtype)
    for factor in range(3, 33):
        loss, _, _, residual, *_ = run(delta, factor * delta)
        assert loss >= 0
        assert residual >= 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [40, 4097])
def test_dead_rows_add_nothing(dtype, n):
    delta, target = rows((6, n), dtype)
    delta[1], target[2], delta[4], target[4] = 0, 0, 0, 0
    target[1] = torch.finfo(dtype).max
    delta[2, 0] = math.inf  # does not matter: its target is dead
    alive = [0, 3, 5]
    everything = run(delta, target, reduction="sum")
    few = run(delta[alive], target[alive], reduction="sum")
    for mine, theirs in zip(everything, few, strict=True):
        if mine.dim() == 0:
            torch.testing.assert_close(mine, theirs, rtol=4 * torch.finfo(mine.dtype).eps, atol=0)
        else:
            assert not mine[[1, 2, 4]].any()
            assert torch.equal(mine[alive], theirs)


def test_dead_rows_exist_only_when_normalising():
    delta, target = rows((3, 40), torch.float64)
    delta[1] = 0
    check(delta, target, normalize=False)
    assert run(delta, target, normalize=False)[1][1].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eps_is_a_norm_and_counts_as_dead(dtype):
    """|(3, 4) / 1024| is exactly 5 / 1024, and eps keeps all of its digits on the way to the kernel."""
    short = torch.tensor([[3.0, 4.0]], device=DEVICE, dtype=dtype) / 1024
    long = torch.tensor([[5.0, -1.0]], device=DEVICE, dtype=dtype)
    norm = 5 / 1024
    for pair in ((short, long), (long, short)):
        dead = run(*pair, eps=norm)
        alive = run(*pair, eps=math.nextafter(norm, 0.0))
        assert not any(result.any() for result in dead)
        assert all(result.any() for result in alive)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nan_and_inf_propagate(dtype, normalize, poison, which):
    pair = rows((3, 40), dtype)
    pair[which][1, 7] = poison
    loss, grad_delta, grad_target, residual, v, _ = run(*pair, normalize=normalize, floor=1e-3)
    assert not loss.isfinite()
    assert not residual.isfinite()
    for gradient in (grad_delta, grad_target, v):
        assert not gradient[1].isfinite().all()
        assert gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_nan_survives_the_floor(normalize):
    delta, target = rows((2, 40))
    delta[0, 3] = math.nan
    loss, grad_delta, _, residual, v, _ = run(delta, target, normalize=normalize, floor=100.0)
    assert loss.isnan() and residual.isnan()
    assert grad_delta[0].isnan().all() and v[0].isnan().all()


@pytest.mark.parametrize("kind", ["number", "tensor"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("n", [25, 4097])
def test_floor_fades_small_rows_out(n, normalize, kind):
    """Row b counts min(1, (|delta_b| / floor)^2), in the loss and as a constant in both gradients."""
    delta, target = rows((4, n), torch.float64)
    delta *= delta.new_tensor([0.003, 0.15, 0.29, 3.0])[:, None] / delta.norm(dim=1, keepdim=True)
    floor = torch.tensor(0.3, dtype=torch.float64, device=DEVICE) if kind == "tensor" else 0.3
    results = run(delta, target, reduction="sum", normalize=normalize, floor=floor)
    single = [exact_value_and_grads(d, g, reduction="sum", normalize=normalize) for d, g in pairs(delta, target)]
    plain = [value_and_grads(lambda d, g: plain_sgr_loss(d, g, reduction="sum", normalize=normalize), d, g)
             for d, g in pairs(delta, target)]  # fmt: skip
    norms = np.sqrt((upcast(delta) ** 2).sum(1))
    weights = np.minimum(1, (norms / np.longdouble(0.3)) ** 2)
    exact = [sum(weight * row[0] for weight, row in zip(weights, single, strict=True))]
    expected = [sum(float(weight) * row[0] for weight, row in zip(weights, plain, strict=True))]
    for index in (1, 2):
        exact.append(np.concatenate([weight * row[index] for weight, row in zip(weights, single, strict=True)]))
        expected.append(torch.cat([float(weight) * row[index] for weight, row in zip(weights, plain, strict=True)]))
    any_order = any_order_errors(delta, target, reduction="sum", normalize=normalize, floor=0.3)
    *results, lengths = results
    for result, index in zip(results, (0, 1, 2, 0, 1), strict=True):
        assert_as_exact_as(result, expected[index], np.asarray(exact[index]), any_order[index])
    assert_lengths(lengths, exact[1])


def pairs(delta, target):
    return zip(delta.split(1), target.split(1), strict=True)


def test_floor_zero_as_a_tensor_is_no_floor():
    delta, target = rows((3, 40))
    zero = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for mine, theirs in zip(run(delta, target, floor=zero), run(delta, target), strict=True):
        assert torch.equal(mine, theirs)


def padded(tensor, before: int, after: int):
    """The same rows, `before` elements after and `after` elements before other things."""
    batch, n = tensor.shape
    wide = tensor.new_full((batch, before + n + after), math.nan)
    wide[:, before : before + n] = tensor
    return wide[:, before : before + n]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [48, 4096 + 48])
def test_strided_rows(dtype, n):
    delta, target = rows((3, n), dtype)
    for views in (
        (padded(delta, 0, 16), padded(target, 16, 16)),  # aligned, different strides
        (padded(delta, 3, 0), target),  # unaligned
        (padded(delta, 0, 5), padded(target, 1, 1)),
    ):
        assert all(view.stride(1) == 1 and view.stride(0) >= n for view in views)
        check(*views)


@pytest.mark.parametrize("n", [48, 4096 + 48])
def test_expanded_rows(n):
    delta, target = rows((3, n))
    check(delta[:1].expand(3, n), target)
    check(delta, target[1:2].expand(3, n))


def test_offsets_beyond_32_bits():
    """Row 1 lies 2^31 elements behind row 0. The space between is never touched and costs no memory on a CPU."""
    stride = 2**31 + 16
    wide = torch.empty(stride + 64, dtype=torch.bfloat16, device=DEVICE).as_strided((2, 64), (stride, 1))
    delta, target = rows((2, 64), torch.bfloat16)
    wide.copy_(delta)
    for mine, theirs in zip(run(wide, target), run(delta, target), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("factor", [2.0, -0.5, 0.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_upstream_gradient_scales(dtype, factor):
    delta, target = rows((3, 50), dtype)
    alpha = torch.ones(3, dtype=torch.float64, device=DEVICE)
    grad_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    one, scaled = (
        kernels.sgr_loss_backward(torch.tensor(value, dtype=grad_dtype, device=DEVICE), delta, target, alpha, -alpha)
        for value in (1.0, factor)
    )
    assert one.any()
    assert torch.equal(scaled, factor * one)


def test_v_of_half_input_does_not_overflow():
    delta, target = rows((2, 8), torch.float16)
    delta = (delta * 2e-6).half()
    *_, v, _ = run(delta, target, reduction="sum")
    assert v.abs().max() > torch.finfo(torch.float16).max
    truth = exact_value_and_grads(delta, target, reduction="sum")
    plain = value_and_grads(lambda d, g: plain_sgr_loss(d, g, reduction="sum"), delta.float(), target.float())
    assert_as_exact_as(v, plain[1], truth[1])


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty(shape, dtype):
    delta, target = rows(shape, dtype)
    loss, coef = kernels.sgr_loss(delta, target, True, 0, 0.0, None, 1e-12)
    assert loss == 0 and coef.shape == (4, shape[0]) and not coef.any()
    loss, grad_delta, grad_target, residual, v, _ = run(delta, target)
    assert loss == residual == 0
    assert grad_delta.shape == grad_target.shape == v.shape == shape
    assert loss.dtype == residual.dtype == v.dtype
