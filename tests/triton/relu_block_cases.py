"""Correctness of the Triton kernels of a ReLU block, called through their host functions: gate, shift, cross entropy,
and the two fused products. Runs like sgr_loss_cases.py.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from helpers import (
    DTYPES,
    any_order_cross_entropy_errors,
    any_order_shift_error,
    any_order_sum_error,
    assert_as_exact_as,
    gamma,
    upcast,
)

from sgr_kernels import reference
from sgr_kernels.operators.common import triton_products
from sgr_kernels.operators.cross_entropy import triton as entropy
from sgr_kernels.operators.linear_relu_delta.triton import linear_relu_delta
from sgr_kernels.operators.linear_relu_weight_grad.triton import linear_relu_weight_grad
from sgr_kernels.operators.relu_backward import triton as gate
from sgr_kernels.operators.sgr_loss import triton as residual
from sgr_kernels.operators.sgr_shift.triton import sgr_shift

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
PRODUCT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = (True, 0, 0.0, None, 1e-12)  # normalised, reduction "mean", no floor


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def widest(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def within_nan(matrix):
    """The same matrix as a part of a larger one, and with other strides."""
    rows, columns = matrix.shape
    wide = matrix.new_full((rows + 3, columns + 21), math.nan)
    wide[1:-2, 5:-16] = matrix
    return wide[1:-2, 5:-16]


def column_major(matrix):
    return matrix.t().contiguous().t()


# --- relu_backward ----------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(gate, "_PROGRAMS", programs)
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


# --- sgr_shift --------------------------------------------------------------------------------------------------------


def exact_shift(x, delta, target, alpha, beta, factor):
    x, delta, target, alpha, beta = map(upcast, (x, delta, target, alpha, beta))
    return x + np.longdouble(factor) * (alpha[:, None] * delta + beta[:, None] * target)


def plain_shift(x, delta, target, alpha, beta, factor):
    """In the dtype of x."""
    return x + factor * (alpha[:, None].to(x.dtype) * delta + beta[:, None].to(x.dtype) * target)


def check_shift(x, delta, target, factor=0.3) -> None:
    alpha, beta = normal(2, len(x), dtype=torch.float64)
    result = sgr_shift(x, delta, target, alpha, beta, factor)
    assert result.is_contiguous() and result.dtype == x.dtype
    args = (x, delta, target, alpha, beta, factor)
    assert_as_exact_as(result, plain_shift(*args), exact_shift(*args), any_order_shift_error(*args))


@pytest.mark.parametrize("shape", [(5, 333), (2, 2048), (2, 2049), (3, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shift(dtype, shape):
    check_shift(*(normal(*shape, dtype=dtype) for _ in range(3)), factor=-1.7)


def test_shift_keeps_its_digits():
    """factor v is small against what it is made of: float32 on the way would show."""
    x, delta = normal(2, 300), normal(2, 300)
    target = (delta.double() * (1 + 1e-6 * normal(2, 300, dtype=torch.float64))).float()
    alpha = torch.full((2,), 1e6, dtype=torch.float64, device=DEVICE)
    args = (x, delta, target, alpha, -alpha, 0.1)
    truth = exact_shift(*args)
    assert_as_exact_as(sgr_shift(*args), torch.from_numpy(truth.astype(np.float32)), truth)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_of_strided_rows(dtype):
    x, delta, target = (normal(3, 80, dtype=dtype) for _ in range(3))
    check_shift(within_nan(x), within_nan(delta), target)
    check_shift(x, delta[:1].expand(3, 80), within_nan(target))
    check_shift(x[:, 1:66], delta[:, 3:68], target[:, 15:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_leaves_dead_rows_alone(dtype):
    x, delta, target = (normal(4, 70, dtype=dtype) for _ in range(3))
    delta[1], target[2, 5], x[3, 0] = math.inf, math.nan, math.inf
    alpha, beta = normal(2, 4, dtype=torch.float64)
    alpha[1:], beta[1:] = 0, 0
    result = sgr_shift(x, delta, target, alpha, beta, 2.0)
    assert torch.equal(result[1:], x[1:])
    assert not torch.equal(result[0], x[0])
    alpha[2] = 1.0
    assert sgr_shift(x, delta, target, alpha, beta, 2.0)[2, 5].isnan()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_shift_of_nothing(shape):
    empty = normal(*shape)
    coefficients = normal(shape[0], dtype=torch.float64)
    assert sgr_shift(empty, empty, empty, coefficients, coefficients, 1.0).shape == shape


# --- cross_entropy ----------------------------------------------------------------------------------------------------


def labels_of(logits):
    return torch.randint(logits.shape[1], (len(logits),)).to(DEVICE)


def plain_cross_entropy(logits, labels, tangent):
    """Loss, gradient and Hessian times tangent by autograd, in the form of the reference that does not cancel."""
    logits = logits.detach().to(widest(logits.dtype)).requires_grad_()
    loss = reference.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (hvp,) = torch.autograd.grad(gradient, logits, tangent.to(logits.dtype), materialize_grads=True)
    return loss.detach(), gradient.detach(), hvp


def exact_cross_entropy(logits, labels, tangent):
    """The same from the formulas in extended precision."""
    z, t = upcast(logits), upcast(tangent)
    batch, classes = z.shape
    at = labels.cpu().numpy()[:, None]
    margins = z - np.take_along_axis(z, at, 1)
    others = np.arange(classes) != at
    peak = np.maximum(margins.max(1, keepdims=True), 0)
    powers = np.exp(margins - peak)
    total = powers.sum(1, keepdims=True)
    rest = np.where(others, powers, 0).sum(1, keepdims=True)
    loss = peak + np.where(peak > 0, np.log(total), np.log1p(rest))
    p = powers / total
    gradient = np.where(others, p, -rest / total)
    differences = np.where(others, t - np.take_along_axis(t, at, 1), 0)
    # t_k - t_y minus its mean, as a sum of differences: nothing cancels in it even where another class has all of p
    centred = np.stack([(p * (differences[:, [k]] - differences)).sum(1) for k in range(classes)], 1)
    return loss.mean(), gradient / batch, p * centred / batch


def check_cross_entropy(logits, labels=None, tangent=None) -> None:
    labels = labels_of(logits) if labels is None else labels
    tangent = normal(*logits.shape, dtype=widest(logits.dtype)) if tangent is None else tangent
    loss, gradient = entropy.cross_entropy(logits, labels)
    hvp = entropy.cross_entropy_hvp(logits, labels, tangent)
    assert loss.shape == ()
    assert loss.dtype == gradient.dtype == hvp.dtype == widest(logits.dtype)
    assert gradient.is_contiguous() and hvp.is_contiguous()
    results = (loss, gradient, hvp)
    plain = plain_cross_entropy(logits, labels, tangent)
    exact, bounds = exact_cross_entropy(logits, labels, tangent), [0.0] * 3
    if loss.dtype == torch.float64:
        bounds = any_order_cross_entropy_errors(exact, logits, tangent, labels)
    for result, other, truth, any_order in zip(results, plain, exact, bounds, strict=True):
        assert_as_exact_as(result, other, truth, any_order)


@pytest.mark.parametrize("shape", [(4, 2), (7, 10), (3, 128), (3, 129), (2, 1000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(dtype, shape):
    check_cross_entropy(3 * normal(*shape, dtype=dtype))


@pytest.mark.parametrize("order", ["any", "rising", "falling"])
def test_cross_entropy_of_many_classes(monkeypatch, order):
    """Several blocks a row, with the maximum moving from one to the next; small blocks stand for many classes."""
    monkeypatch.setattr(entropy, "_BLOCK", 128)
    logits = 9 * normal(3, 700)
    if order != "any":
        logits = logits.sort(1, descending=order == "falling").values
    check_cross_entropy(logits)
    logits[:, :300] = -math.inf  # whole blocks without a class
    check_cross_entropy(logits, torch.tensor([300, 450, 699], device=DEVICE))


def test_cross_entropy_reads_rows_longer_than_a_block():
    logits = normal(1, 2 * entropy._BLOCK + 5)
    loss, gradient = entropy.cross_entropy(logits, torch.tensor([entropy._BLOCK + 1], device=DEVICE))
    wide = logits.double().requires_grad_()
    truth = torch.nn.functional.cross_entropy(wide, torch.tensor([entropy._BLOCK + 1], device=DEVICE))
    (exact,) = torch.autograd.grad(truth, wide)
    assert_as_exact_as(loss, truth.float(), upcast(truth))
    assert_as_exact_as(gradient, exact.float(), upcast(exact))


@pytest.mark.parametrize("margin", [3.0, 18.0, 60.0, -3.0, -18.0, -60.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_confident_samples_keep_their_digits(dtype, margin):
    """Of the loss, the gradient and the Hessian, which shrink to 1e-26; and where another class is that far ahead."""
    logits = normal(4, 10, dtype=dtype)
    labels = torch.tensor([0, 3, 9, 3], device=DEVICE)
    at = labels if margin > 0 else (labels + 1) % 10
    logits[range(4), at] = logits.amax(1) + abs(margin)
    check_cross_entropy(logits, labels)


@pytest.mark.parametrize("ahead", [0, 1])
def test_rounding_of_margins_is_not_magnified(ahead):
    """exp(-60) of a margin rounded to float32, or by way of exp2, is wrong in the last five bits: here four roundings.

    With the label ahead, that is the size of the gradient; with another class ahead, of its Hessian (which then is the
    difference of float64 numbers of size 1, and cannot be followed so far).
    """
    logits, tangent = normal(8, 10), normal(8, 10)
    labels = torch.arange(8, device=DEVICE)
    logits[range(8), labels + ahead] = logits.amax(1) + (20.1 if ahead else 60.1)
    result = entropy.cross_entropy_hvp(logits, labels, tangent) if ahead else entropy.cross_entropy(logits, labels)[1]
    truth = exact_cross_entropy(logits, labels, tangent)[1 + ahead]
    roundings = torch.finfo(torch.float32).eps * np.sqrt((truth**2).sum())
    assert_as_exact_as(result, torch.from_numpy(truth.astype(np.float32)), truth, 3 * roundings)


def test_margins_that_differ_from_sample_to_sample():
    """Each row by itself: in a norm over all, the least confident one would hide the others."""
    logits = normal(5, 6)
    labels = labels_of(logits)
    logits[range(5), labels] = logits.amax(1) + torch.tensor([0.0, 5.0, 20.0, 45.0, 70.0], device=DEVICE)
    tangent = normal(5, 6)
    _, gradient = entropy.cross_entropy(logits, labels)
    hvp = entropy.cross_entropy_hvp(logits, labels, tangent)
    for row in range(5):
        one = slice(row, row + 1)
        _, *plain = plain_cross_entropy(logits[one], labels[one], tangent[one])
        _, *truth = exact_cross_entropy(logits[one], labels[one], tangent[one])
        assert_as_exact_as(5 * gradient[one], plain[0], truth[0])
        assert_as_exact_as(5 * hvp[one], plain[1], truth[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_each_row_sums_to_nothing(dtype):
    """What the label gets is the sum of the others, to the last digits of what was stored."""
    logits = normal(6, 9, dtype=dtype)
    labels = labels_of(logits)
    logits[range(6), labels] += torch.tensor([0, 4, 8, 16, 32, 64], device=DEVICE).to(dtype)
    _, gradient = entropy.cross_entropy(logits, labels)
    gradient = gradient.double()
    at_label = gradient.gather(1, labels[:, None]).squeeze(1)
    assert (at_label < 0).all()
    slack = 9 * torch.finfo(widest(dtype)).eps * at_label.abs()
    assert (gradient.sum(1).abs() <= slack).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_class_has_no_loss(dtype):
    logits, labels = normal(3, 1, dtype=dtype), torch.zeros(3, dtype=torch.int64, device=DEVICE)
    loss, gradient = entropy.cross_entropy(logits, labels)
    hvp = entropy.cross_entropy_hvp(logits, labels, normal(3, 1))
    assert loss == 0 and not gradient.any() and not hvp.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_classes(dtype):
    """Logits of -inf take no part; where only the label is left, the loss is 0. At the label, it is inf."""
    logits = normal(4, 8, dtype=dtype)
    logits[0, 2], logits[1, 5:], logits[2, 1:] = -math.inf, -math.inf, -math.inf
    labels = torch.tensor([1, 4, 0, 7], device=DEVICE)
    tangent = normal(4, 8, dtype=widest(dtype))
    check_cross_entropy(logits[:2], labels[:2], tangent[:2])
    loss, gradient = entropy.cross_entropy(logits, labels)
    hvp = entropy.cross_entropy_hvp(logits, labels, tangent)
    assert loss.isfinite() and gradient.isfinite().all() and hvp.isfinite().all()
    assert not gradient[logits == -math.inf].any() and not hvp[logits == -math.inf].any()
    assert not gradient[2].any() and not hvp[2].any()
    loss, gradient = entropy.cross_entropy(logits[2:3], torch.tensor([3], device=DEVICE))
    assert loss == math.inf and gradient.tolist() == [[1, 0, 0, -1, 0, 0, 0, 0]]


@pytest.mark.parametrize("label", [-1, -100, 8, 2**33])
def test_a_label_that_is_none_makes_its_row_nan(label):
    logits, labels = normal(3, 8), torch.tensor([1, label, 7], device=DEVICE)
    tangent = normal(3, 8)
    loss, gradient = entropy.cross_entropy(logits, labels)
    assert loss.isnan()
    for result in (gradient, entropy.cross_entropy_hvp(logits, labels, tangent)):
        assert result[1].isnan().all()
        assert result[[0, 2]].isfinite().all()


@pytest.mark.parametrize("at", [2, 5])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_nan_and_inf_among_logits_show(poison, at):
    logits, labels = normal(3, 8), torch.tensor([1, 5, 7], device=DEVICE)
    logits[1, at] = poison
    loss, gradient = entropy.cross_entropy(logits, labels)
    hvp = entropy.cross_entropy_hvp(logits, labels, normal(3, 8))
    assert not loss.isfinite()
    for result in (gradient, hvp):
        assert result[1].isnan().any()
        assert result[[0, 2]].isfinite().all()


def test_huge_logits_do_not_overflow():
    logits = torch.tensor([[1e4, -1e4, 0.0], [3e38, 0.0, -3e38]], device=DEVICE)
    loss, gradient = entropy.cross_entropy(logits, torch.tensor([1, 0], device=DEVICE))
    assert loss == 1e4
    assert gradient.tolist() == [[0.5, -0.5, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_strided_rows(dtype):
    logits, tangent = normal(4, 10, dtype=dtype), normal(4, 10, dtype=widest(dtype))
    labels = torch.tensor([[1, 0], [9, 0], [0, 0], [4, 0]], device=DEVICE)[:, 0]
    check_cross_entropy(within_nan(logits), labels, within_nan(tangent))
    check_cross_entropy(logits[:1].expand(4, 10), labels, column_major(tangent))


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (2, 0)])
def test_cross_entropy_of_nothing(shape):
    logits, labels = normal(*shape), torch.zeros(shape[0], dtype=torch.int64, device=DEVICE)
    loss, gradient = entropy.cross_entropy(logits, labels)
    assert loss.isnan() and gradient.shape == shape
    assert entropy.cross_entropy_hvp(logits, labels, normal(*shape)).shape == shape


# --- linear_relu_delta and linear_relu_weight_grad --------------------------------------------------------------------


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
