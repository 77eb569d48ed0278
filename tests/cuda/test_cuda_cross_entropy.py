"""The CUDA kernels of cross_entropy and cross_entropy_hvp on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import any_order_cross_entropy_errors, assert_as_exact_as, upcast
from machine import Machine
from shim_library import DTYPES, SEEDED_SCHEDULES, Device, assert_same_bits, far_apart, spread, wide
from torch import Tensor


def exact_cross_entropy(logits: Tensor, labels: Tensor, tangent: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, gradient and Hessian times tangent in extended precision."""
    z, t = upcast(logits), upcast(tangent)
    samples, y = np.arange(len(z)), labels.numpy()
    odds = np.exp(z - z[samples, y][:, None])  # against the label
    odds[samples, y] = 0
    others = odds.sum(1)
    gradient = odds / (1 + others)[:, None]
    gradient[samples, y] = -others / (1 + others)
    odds[samples, y] = 1
    p = odds / odds.sum(1, keepdims=True)
    difference = t - t[samples, p.argmax(1)][:, None]  # as it is, the likeliest class would cancel
    hvp = p * (difference - (p * difference).sum(1, keepdims=True))
    return np.asarray(np.log1p(others).sum()) / len(z), gradient / len(z), hvp / len(z)


def plain_cross_entropy(logits: Tensor, labels: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as a user of PyTorch gets it, in the dtype of the result."""
    z = logits.detach().to(wide(logits)).requires_grad_()
    loss = torch.nn.functional.cross_entropy(z, labels)
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    (hvp,) = torch.autograd.grad(gradient, z, tangent)
    return loss.detach(), gradient.detach(), hvp


def logit_inputs(rows: int, cols: int, dtype, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    logits = (scale * torch.randn(rows, cols, dtype=torch.float64)).to(dtype)
    return logits, torch.randint(cols, (rows,)), torch.randn(rows, cols, dtype=torch.float64).to(wide(logits))


def assert_every_digit(result: Tensor, truth: np.ndarray) -> None:
    """Each element by itself, small ones too: rounded to its dtype from something wider."""
    info = torch.finfo(result.dtype)
    assert (np.abs(upcast(result) - truth) <= info.eps * np.maximum(np.abs(truth), info.smallest_normal)).all()


def check_cross_entropy(logits: Tensor, labels: Tensor, tangent: Tensor, device: Device | None = None) -> list[Tensor]:
    machine = Machine(device)
    results = [*machine.cross_entropy(logits, labels), machine.cross_entropy_hvp(logits, labels, tangent)]
    truths = exact_cross_entropy(logits, labels, tangent)
    plains, bounds = plain_cross_entropy(logits, labels, tangent), [0.0] * 3
    if results[0].dtype == torch.float64:
        bounds = any_order_cross_entropy_errors(truths, logits, tangent)
    for result, plain, truth, any_order in zip(results, plains, truths, bounds, strict=True):
        assert_as_exact_as(result, plain, truth, any_order)
        if result.dtype == torch.float32:
            assert_every_digit(result, truth)
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 2), (3, 3), (4, 10), (5, 31), (9, 32), (2, 33), (130, 7), (6, 100), (3, 256), (3, 257), (2, 1000), (1, 3001)],
)
def test_cross_entropy(dtype, shape):
    check_cross_entropy(*logit_inputs(*shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [10, 300])
@pytest.mark.parametrize("margin", [18, 60, 69, -18, -60, -69, -10000])
def test_confident_samples_keep_their_digits(dtype, cols, margin):
    """One logit far above the others: that of the label, or of another class. At 18 a float32 p_y is 1 already."""
    logits, labels, tangent = logit_inputs(5, cols, dtype, 0.5)
    top = labels if margin > 0 else (labels + 1) % cols
    logits[torch.arange(5), top] += abs(margin)
    loss, gradient, hvp = check_cross_entropy(logits, labels, tangent)
    assert loss > 0 and (gradient.gather(1, labels[:, None]) < 0).all()
    for result, truth in zip((gradient, hvp), exact_cross_entropy(logits, labels, tangent)[1:], strict=True):
        for row, exact in zip(result, truth, strict=True):  # none may hide behind a larger one
            error, size = (np.sqrt((x**2).sum()) for x in (upcast(row) - exact, exact))
            rounding = torch.finfo(result.dtype).eps * (abs(margin) + 1)  # of the exponents
            assert error <= rounding * max(size, torch.finfo(result.dtype).smallest_normal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [37, 301])
def test_logits_and_tangents_with_strides(dtype, cols):
    """Rows that start anywhere and lie apart; one row for all samples."""
    for stride, other, start in [(cols, cols + 5, 1), (cols + 3, cols, 3), (cols + 16, cols + 1, 0)]:
        logits, labels, tangent = logit_inputs(5, cols, dtype)
        check_cross_entropy(spread(logits, stride, start), labels, spread(tangent, other, start))
    check_cross_entropy(logits[:1].expand(5, cols), labels, tangent[:1].expand(5, cols))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_class_has_nothing_to_learn(dtype):
    logits, labels, tangent = logit_inputs(5, 1, dtype)
    machine = Machine()
    loss, gradient = machine.cross_entropy(logits, labels)
    assert loss == 0 and not gradient.any() and not machine.cross_entropy_hvp(logits, labels, tangent).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [1, 10, 300])
def test_labels_out_of_range_show(dtype, cols):
    logits, labels, tangent = logit_inputs(6, cols, dtype)
    machine = Machine()
    _, clean = machine.cross_entropy(logits, labels)
    clean_hvp = machine.cross_entropy_hvp(logits, labels, tangent)
    labels[1], labels[3], labels[4] = -1, cols, 2**40
    (loss, gradient), hvp = machine.cross_entropy(logits, labels), machine.cross_entropy_hvp(logits, labels, tangent)
    assert loss.isnan()
    for result, expected in ((gradient, clean), (hvp, clean_hvp)):
        assert result[[1, 3, 4]].isnan().all()
        assert torch.equal(result[[0, 2, 5]], expected[[0, 2, 5]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [10, 300])
def test_masked_classes(dtype, cols):
    """-inf in other classes leaves the rest as if they were not there; in all of them, nothing to learn."""
    logits, labels, tangent = logit_inputs(5, cols, dtype)
    labels[:] = torch.arange(5)
    logits[:, 5:] = -torch.inf
    logits[0, 1:], logits[0, 0] = -torch.inf, -3.0
    results = check_cross_entropy(logits, labels, tangent)
    loss, gradient, hvp = results
    few = check_cross_entropy(logits[:, :5].contiguous(), labels, tangent[:, :5].contiguous())
    assert not gradient[0].any() and not hvp[0].any() and not gradient[:, 5:].any() and not hvp[:, 5:].any()
    torch.testing.assert_close(loss, few[0])
    torch.testing.assert_close(gradient[:, :5], few[1])
    torch.testing.assert_close(hvp[:, :5], few[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [10, 300])
def test_cross_entropy_shows_nan_and_inf(dtype, cols):
    logits, labels, tangent = logit_inputs(5, cols, dtype)
    machine = Machine()
    _, clean = machine.cross_entropy(logits, labels)
    for value, own in itertools.product((torch.nan, torch.inf), (True, False)):
        broken = logits.clone()
        broken[2, (labels[2] if own else labels[2] + 1) % cols] = value
        loss, gradient = machine.cross_entropy(broken, labels)
        hvp = machine.cross_entropy_hvp(broken, labels, tangent)
        assert loss.isnan() and gradient[2].isnan().all() and hvp[2].isnan().all()
        assert torch.equal(gradient[[0, 1, 3, 4]], clean[[0, 1, 3, 4]]) and hvp[[0, 1, 3, 4]].isfinite().all()
    broken = logits.clone()
    broken[2] = torch.nan  # nothing left to compare with
    assert machine.cross_entropy(broken, labels)[1][2].isnan().all()
    broken[2] = logits[2]
    broken[2, labels[2]] = -torch.inf  # the label is impossible: an infinite loss, as in torch
    loss, gradient = machine.cross_entropy(broken, labels)
    assert loss == torch.inf and gradient[2].isfinite().all()
    torch.testing.assert_close(gradient[2, labels[2]], torch.tensor(-0.2, dtype=gradient.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(1000, 3), (37, 40), (23, 300)])
def test_cross_entropy_in_any_order(dtype, shape):
    """The same bits whoever runs first, and where teams take several rows in turn."""
    logits, labels, tangent = logit_inputs(*shape, dtype)
    expected = check_cross_entropy(logits, labels, tangent)
    for schedule, seed in SEEDED_SCHEDULES:
        device = Device(max_grid=3, schedule=schedule, seed=seed)
        assert_same_bits(expected, check_cross_entropy(logits, labels, tangent, device))
        assert_same_bits(expected, check_cross_entropy(logits, labels, tangent, replace(device, max_grid=2**31 - 1)))


def test_offsets_beyond_32_bits():
    """Rows so far apart that row * stride exceeds 2^31 elements."""
    near, labels, tangent = logit_inputs(3, 50, torch.float16)
    far, machine = far_apart(near), Machine()
    assert_same_bits(list(machine.cross_entropy(near, labels)), list(machine.cross_entropy(far, labels)))
    hvps = [machine.cross_entropy_hvp(logits, labels, tangent) for logits in (near, far)]
    assert_same_bits(hvps[:1], hvps[1:])
