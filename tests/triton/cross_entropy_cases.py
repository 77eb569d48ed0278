"""Correctness of the Triton kernels of cross_entropy and cross_entropy_hvp. Runs like sgr_loss_cases.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import DTYPES, any_order_cross_entropy_errors, assert_as_exact_as, upcast
from sgr_bench import reference
from triton_helpers import DEVICE, column_major, normal, widest, within_nan

from sgr_kernels.operators.cross_entropy import triton as entropy


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
