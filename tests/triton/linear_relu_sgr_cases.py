"""Correctness of the Triton kernels of linear_relu_delta and linear_relu_weight_grad. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import any_order_sum_error, assert_as_exact_as, gamma, upcast
from triton_helpers import DEVICE, column_major, exact_shift, normal, plain_shift, within_nan

from sgr_kernels.operators.common import triton_products
from sgr_kernels.operators.linear_relu_sgr.triton import linear_relu_delta, linear_relu_weight_grad
from sgr_kernels.operators.sgr_loss import triton as residual

PRODUCT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = (True, 0, 0.0, None, 1e-12)  # normalised, reduction "mean", no floor


@pytest.fixture(autouse=True)
def _keep_precision():
    before = torch.backends.cuda.matmul.allow_tf32
    set_precision("ieee")
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def set_precision(precision) -> None:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def as_multiplied(matrix, dtype, precision):
    """A float64 matrix as the units that multiply get it: rounded to the dtype, and float32 on tensor cores to tf32."""
    matrix = matrix.to(dtype)
    if dtype == torch.float32 and precision == "tf32":
        matrix = ((matrix.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return matrix.float()


def gated(grad, output):
    return torch.ops.aten.threshold_backward(grad, output, 0)


def block(batch, m, n, dtype):
    """grad, output, weight, target of a block."""
    return tuple(normal(*shape, dtype=dtype) for shape in ((batch, m), (batch, m), (m, n), (batch, n)))


def exact_coefficients(delta, target, normalize, dtype=np.longdouble):
    """Loss, alpha, beta and alpha_target (2.1 of the paper's mathematics), reduction "mean"."""
    d, g = (upcast(rows).astype(dtype) for rows in (delta, target))
    scale = dtype(2) / d.size
    dd, gg, dg = (d * d).sum(1), (g * g).sum(1), (d * g).sum(1)
    if not normalize:
        same = np.full(len(d), scale)
        return ((d - g) ** 2).sum() * scale / 2, np.stack([same, -same, same])
    norms = np.sqrt(dd) * np.sqrt(gg)
    cosine = dg / norms
    return (1 - cosine).sum() * scale, scale * np.stack([cosine / dd, -1 / norms, cosine / gg])


def coefficient_sizes(delta, target, normalize) -> list[float]:
    """Norms of the coefficients of parallel rows. Any order of the sums is worth gamma for the norms, twice for c."""
    d, g = (np.sqrt((upcast(rows) ** 2).sum(1)) if normalize else np.ones(len(rows)) for rows in (delta, target))
    return [float(2 / delta.numel() * np.sqrt((x**2).sum())) for x in (1 / d**2, 1 / (d * g), 1 / g**2)]


def check_delta(grad, output, weight, target, precision="ieee", normalize=True) -> None:
    delta, loss, coef = linear_relu_delta(grad, output, weight, target, normalize, *OPTIONS[1:])
    assert delta.is_contiguous() and delta.dtype == grad.dtype
    assert coef.shape == (3, len(grad)) and coef.dtype == torch.float64
    assert loss.shape == () and loss.dtype == torch.float32
    a = gated(grad, output)
    plain = as_multiplied(a, grad.dtype, precision) @ as_multiplied(weight, grad.dtype, precision)
    assert_as_exact_as(delta, plain.to(grad.dtype), upcast(a) @ upcast(weight))
    # The residual is that of the delta that was stored, rounded as it is.
    exact_loss, exact = exact_coefficients(delta, target, normalize)
    plain_loss, plain = exact_coefficients(delta, target, normalize, np.float64)
    assert_as_exact_as(loss, torch.tensor(plain_loss).float(), exact_loss)
    for mine, other, truth, size in zip(coef, plain, exact, coefficient_sizes(delta, target, normalize), strict=True):
        assert_as_exact_as(mine, torch.from_numpy(other), truth, 4 * gamma(delta.shape[1] + 10) * size)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_delta_product(dtype, normalize):
    check_delta(*block(70, 50, 130, dtype), normalize=normalize)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_delta_product_in_both_precisions(precision):
    set_precision(precision)
    operands = block(30, 70, 40, torch.float32)
    check_delta(*operands, precision)
    delta, *_ = linear_relu_delta(*operands, *OPTIONS)
    set_precision("ieee")
    exact, *_ = linear_relu_delta(*operands, *OPTIONS)
    assert torch.equal(delta, exact) == (precision == "ieee")


def test_delta_product_of_more_tiles_than_a_group():
    check_delta(*block(64 * 9 + 5, 8, 64 + 3, torch.float32))


def large_tiles(monkeypatch, down, across, *operands):
    monkeypatch.setattr(triton_products, "_MANY_TILES", 1)
    assert triton_products.tile_of(down, across, *operands)["DOWN"] == 128


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_delta_product_by_large_tiles(monkeypatch, dtype):
    set_precision("tf32")
    operands = block(140, 48, 144, dtype)
    large_tiles(monkeypatch, 140, 144, *operands)
    check_delta(*operands, "tf32")


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_delta_product_with_any_strides(dtype):
    """And with NaN all around the operands."""
    grad, output, weight, target = block(20, 37, 45, dtype)
    check_delta(within_nan(grad), within_nan(output), within_nan(weight), within_nan(target))
    check_delta(column_major(grad), output, column_major(weight), target[:1].expand(20, 45))


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_nan_and_inf_stay_in_their_rows_of_delta(dtype):
    grad, output, weight, target = block(70, 37, 45, dtype)
    grad[3, 36], output[3, 36] = math.nan, 1.0
    grad[5, 0], output[5, 0] = math.inf, -1.0  # closed
    output[7, 1] = math.nan  # open
    delta, loss, coef = linear_relu_delta(grad, output, weight, target, *OPTIONS)
    alive = [row for row in range(70) if row != 3]
    assert delta[3].isnan().all() and delta[alive].isfinite().all()
    assert loss.isnan() and coef[:, 3].isnan().all() and coef[:, alive].isfinite().all()
    check_delta(grad[7:8], output[7:8], weight, target[7:8])


def test_dead_rows_of_delta():
    grad, output, weight, target = block(6, 20, 30, torch.float32)
    output[1], target[2] = -1, 0
    delta, loss, coef = linear_relu_delta(grad, output, weight, target, *OPTIONS)
    assert not delta[1].any() and not coef[:, [1, 2]].any()
    theirs, _ = residual.sgr_loss(delta, target, *OPTIONS)
    assert_as_exact_as(loss, theirs, upcast(theirs))


def test_floor_of_the_fused_residual():
    """Number and tensor reach the coefficients; the same rows give sgr_loss the same sums."""
    operands = block(6, 20, 30, torch.float32)
    for floor in ((30.0, None), (0.0, torch.tensor(30.0, dtype=torch.float64, device=DEVICE))):
        delta, loss, coef = linear_relu_delta(*operands, True, 2, *floor, 1e-12)
        theirs, coef_theirs = residual.sgr_loss(delta, operands[3], True, 2, *floor, 1e-12)
        assert delta.norm(dim=1).min() < 30
        assert_as_exact_as(loss, theirs, upcast(theirs))
        norms = [rows.double().norm(dim=1) for rows in (delta, operands[3])]
        size = float(2 / torch.minimum(*norms).square().min()) * math.sqrt(coef.numel())
        assert_as_exact_as(coef, coef_theirs, upcast(coef_theirs), 10 * gamma(delta.shape[1] + 10) * size)


def far_apart(matrix):
    """The same rows, so far apart that 32 bits do not count the elements between those of one tile.

    The space between is never touched and costs no memory on a CPU.
    """
    stride = 2**31 // 60
    wide = torch.empty(stride * len(matrix), dtype=matrix.dtype, device=DEVICE)
    result = wide.as_strided(matrix.shape, (stride, 1))
    assert triton_products.far_apart(result) and not triton_products.far_apart(matrix)
    return result.copy_(matrix)


def test_offsets_beyond_32_bits():
    grad, output, x, delta, target, alpha, beta = shifted_block(64, 20, 40, torch.bfloat16)
    weight = normal(20, 40, dtype=torch.bfloat16)
    far_grad, far_x = far_apart(grad), far_apart(x)
    near = linear_relu_delta(grad, output, weight, target, *OPTIONS)
    far = linear_relu_delta(far_grad, output, weight, target, *OPTIONS)
    assert all(map(torch.equal, near, far))
    near = linear_relu_weight_grad(grad, output, x, delta, target, alpha, beta, 0.7, True)
    far = linear_relu_weight_grad(far_grad, output, far_x, delta, target, alpha, beta, 0.7, True)
    assert all(map(torch.equal, near, far))


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0)])
def test_delta_product_of_nothing(shape):
    batch, m, n = shape
    delta, loss, coef = linear_relu_delta(*block(batch, m, n, torch.float32), *OPTIONS)
    assert delta.shape == (batch, n) and not delta.any()
    assert loss == 0 and coef.shape == (3, batch) and not coef.any()


def check_weight_grad(grad, output, x, delta, target, alpha, beta, factor, precision="ieee") -> None:
    weight, bias = linear_relu_weight_grad(grad, output, x, delta, target, alpha, beta, factor, True)
    assert weight.is_contiguous() and weight.dtype == bias.dtype == torch.float32
    a = gated(grad, output)
    dead = ((alpha == 0) & (beta == 0))[:, None]
    shifted = torch.where(dead, x.float(), plain_shift(x.float(), delta.float(), target.float(), alpha, beta, factor))
    plain = as_multiplied(a, x.dtype, precision).t() @ as_multiplied(shifted, x.dtype, precision)
    exact = exact_shift(x, torch.where(dead, 0, delta), torch.where(dead, 0, target), alpha, beta, factor)
    assert_as_exact_as(weight, plain, upcast(a).T @ exact)
    assert_as_exact_as(bias, a.float().sum(0), upcast(a).sum(0), any_order_sum_error(a, (0,), torch.float32))
    alone, none = linear_relu_weight_grad(grad, output, x, delta, target, alpha, beta, factor, False)
    assert torch.equal(alone, weight)
    assert none.shape == (0,) and none.dtype == torch.float32


def shifted_block(batch, m, n, dtype):
    """grad, output, x, delta, target, alpha, beta."""
    grad, output, _, target = block(batch, m, n, dtype)
    x, delta = normal(batch, n, dtype=dtype), normal(batch, n, dtype=dtype)
    return grad, output, x, delta, target, *normal(2, batch, dtype=torch.float64)


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_weight_gradient(dtype):
    check_weight_grad(*shifted_block(50, 70, 130, dtype), 0.7)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_weight_gradient_in_both_precisions(precision):
    set_precision(precision)
    check_weight_grad(*shifted_block(64, 30, 40, torch.float32), -2.0, precision)


def test_weight_gradient_of_more_tiles_than_a_group():
    check_weight_grad(*shifted_block(8, 64 * 9 + 5, 64 + 3, torch.float32), 0.7)


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_weight_gradient_by_large_tiles(monkeypatch, dtype):
    set_precision("tf32")
    operands = shifted_block(40, 144, 160, dtype)
    large_tiles(monkeypatch, 144, 160, *operands[:5])
    check_weight_grad(*operands, 0.7, "tf32")


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_weight_gradient_with_any_strides(dtype):
    grad, output, x, delta, target, alpha, beta = shifted_block(37, 20, 45, dtype)
    check_weight_grad(*map(within_nan, (grad, output, x, delta, target)), alpha, beta, 0.7)
    check_weight_grad(column_major(grad), output, column_major(x), delta, target[:1].expand(37, 45), alpha, beta, 0.7)


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
def test_dead_rows_shift_nothing(dtype):
    grad, output, x, delta, target, alpha, beta = shifted_block(37, 20, 45, dtype)
    delta[4], target[36, 2] = math.inf, math.nan
    alpha[[4, 36]], beta[[4, 36]] = 0, 0
    check_weight_grad(grad, output, x, delta, target, alpha, beta, 0.7)
    grad[4], output[4], alpha[4] = 1, 1, 1
    weight, _ = linear_relu_weight_grad(grad, output, x, delta, target, alpha, beta, 0.7, False)
    assert not weight.isfinite().any()


@pytest.mark.parametrize("size, factor", [(1e-25, 1.0), (1e15, 1e15)])
def test_coefficients_beyond_float32(size, factor):
    """alpha of order 1 / |delta|^2 leaves float32; what it makes of delta does not."""
    grad, output, x, delta, target, *_ = shifted_block(37, 20, 45, torch.float32)
    delta *= size
    target *= size
    _, coef = residual.sgr_loss(delta, target, True, 2, 0.0, None, 0.0)
    weight, _ = linear_relu_weight_grad(grad, output, x, delta, target, coef[0], coef[1], factor, False)
    a, shifted = upcast(gated(grad, output)), exact_shift(x, delta, target, coef[0], coef[1], factor)
    assert np.abs(shifted - upcast(x)).max() > 0.1
    plain = gated(grad, output).t() @ torch.from_numpy(shifted.astype(np.float32)).to(DEVICE)
    assert_as_exact_as(weight, plain, a.T @ shifted)


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 0, 5), (4, 5, 0)])
def test_weight_gradient_of_nothing(shape):
    batch, m, n = shape
    operands = shifted_block(batch, m, n, torch.float32)
    weight, bias = linear_relu_weight_grad(*operands, 0.7, True)
    assert weight.shape == (m, n) and not weight.any()
    a = gated(*operands[:2])
    assert_as_exact_as(bias, a.sum(0), upcast(a).sum(0), any_order_sum_error(a, (0,), torch.float32))


def test_fused_products_refuse_float64():
    operands = block(2, 3, 4, torch.float64)
    with pytest.raises(TypeError, match="torch.mm"):
        linear_relu_delta(*operands, *OPTIONS)
    with pytest.raises(TypeError, match="float64"):
        linear_relu_weight_grad(*shifted_block(2, 3, 4, torch.float64), 1.0, True)


def test_large_tiles_need_wide_loads(monkeypatch):
    monkeypatch.setattr(triton_products, "_MANY_TILES", 1)
    matrix = normal(64, 96, dtype=torch.float16)
    layouts = matrix, matrix.t(), matrix[:, 8:], matrix[:, ::2]
    sides = [triton_products.tile_of(64, 96, each)["DOWN"] for each in layouts]
    assert sides == [128, 128, 64, 64]
    assert triton_products.tile_of(64, 97, matrix)["DOWN"] == 64
    assert triton_products.tile_of(64, 96, matrix.float())["DOWN"] == 64  # no tensor cores without tf32
    set_precision("tf32")
    assert triton_products.tile_of(64, 96, matrix.float())["DOWN"] == 128
