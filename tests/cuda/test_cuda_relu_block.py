"""The CUDA kernels of a ReLU block with cross entropy on the CPU, under the shim of ``shim/``."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    any_order_cross_entropy_errors,
    any_order_shift_error,
    any_order_sum_error,
    assert_as_exact_as,
    upcast,
)
from relu_block_library import ReluBlockMachine
from shim_library import DTYPES, Device, assert_same_bits, far_apart, wide
from torch import Tensor

SCHEDULES = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2), ("starving", 0), ("starving", 1)]
# Columns of a matrix: one block, several, a part of the last one; fewer columns than a pack; several parts
MATRICES = [(7, 2, 1), (1, 300, 1), (300, 10, 1), (33, 64, 1), (150, 264, 1), (40, 7, 1), (520, 16, 1)]
IMAGES = [(5, 24, 16), (3, 5, 49), (4, 2, 256), (2, 3, 2)]
# Slices: shorter than a segment, longer, several in a block; a single channel
SLICES = [(3, 5, 301), (2, 3, 8193), (1, 2, 20000), (1101, 2, 257), (9, 1, 1), (3, 1, 5000)]


def at_offset(values: Tensor, offset: int) -> Tensor:
    """A contiguous copy that starts ``offset`` elements after an aligned address, with NaN on both sides."""
    memory = torch.full((values.numel() + 2 * offset + 16,), torch.nan, dtype=values.dtype)
    view = memory[offset : offset + values.numel()].view(values.shape)
    return view.copy_(values)


def spread(rows: Tensor, stride: int, start: int) -> Tensor:
    """A copy of rows, ``stride`` elements apart, that starts ``start`` elements after an aligned address."""
    memory = torch.full(((len(rows) + 1) * stride,), torch.nan, dtype=rows.dtype)
    return memory.as_strided(rows.shape, (stride, 1), start).copy_(rows)


def gate_inputs(shape, dtype) -> tuple[Tensor, Tensor]:
    """Gradient and output of a ReLU, with open and closed gates, and NaN in one of the outputs."""
    grad, output = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64).relu()
    output.view(-1)[len(output.view(-1)) // 2] = torch.nan
    output.view(-1)[0] = -0.0
    return grad.to(dtype), output.to(dtype)


def check_gate(grad: Tensor, output: Tensor, machine: ReluBlockMachine, offset: int = 0) -> Tensor:
    expected = torch.where(output <= 0, torch.zeros((), dtype=grad.dtype), grad)
    masked, sums = machine.relu_backward(grad, output, True, offset)
    assert_same_bits([masked], [expected])
    any_order = any_order_sum_error(expected, (0, 2))
    assert_as_exact_as(sums, expected.sum((0, 2), dtype=wide(grad)), upcast(expected).sum((0, 2)), any_order)
    alone, none = machine.relu_backward(grad, output, False, offset)
    assert_same_bits([alone], [expected])
    assert none.numel() == 0 and len(machine.launches) == 1
    return sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", MATRICES + IMAGES + SLICES)
def test_gate(dtype, shape):
    check_gate(*gate_inputs(shape, dtype), ReluBlockMachine())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(150, 64, 1), (3, 5, 49), (3, 4, 600)])
def test_gate_of_misaligned_tensors(dtype, shape):
    """Tensors that start anywhere, together or not."""
    for first, second, offset in [(1, 1, 1), (1, 2, 0), (3, 3, 0), (0, 0, 1), (5, 5, 5), (0, 1, 0)]:
        grad, output = gate_inputs(shape, dtype)
        check_gate(at_offset(grad, first), at_offset(output, second), ReluBlockMachine(), offset)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(150, 600, 1), (3, 24, 49), (4, 3, 9000), (1101, 2, 257)])
def test_gate_in_any_order(dtype, shape):
    """The same bits whoever runs first, and where blocks take several parts in turn."""
    grad, output = gate_inputs(shape, dtype)
    expected = ReluBlockMachine().relu_backward(grad, output, True)
    for schedule, seed in SCHEDULES:
        machine = ReluBlockMachine(Device(max_grid=5, schedule=schedule, seed=seed))
        assert_same_bits(list(expected), list(machine.relu_backward(grad, output, True)))
        assert max(launch.blocks for launch in machine.launches) <= 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("shape", [(40, 12, 1), (4, 6, 25), (3, 4, 600)])
def test_gate_shows_nan_and_inf_where_it_is_open(dtype, value, shape):
    grad, output = gate_inputs(shape, dtype)
    grad[1, 2, 0], output[1, 2, 0] = value, 0.0  # behind a closed gate
    sums = check_gate(grad, output, ReluBlockMachine())
    assert sums.isfinite().all()
    output[1, 2, 0] = 1.0
    masked, sums = ReluBlockMachine().relu_backward(grad, output, True)
    assert not masked[1, 2, 0].isfinite()
    assert sums.isfinite().logical_not().tolist() == [channel == 2 for channel in range(shape[1])]


@pytest.mark.parametrize("shape", [(4000, 4, 1), (100, 3, 49), (4, 2, 9000)])
def test_sums_of_the_gate_do_not_lose_small_terms(shape):
    """A float32 accumulator would stop at 2^24 units of the terms, and lose what cancels."""
    grad = torch.full(shape, 1e-3)
    grad[0, :, 0], grad[-1, :, -1] = 3e5, -3e5
    check_gate(grad, torch.ones(shape), ReluBlockMachine())


def shift_inputs(rows: int, cols: int, dtype) -> tuple[Tensor, ...]:
    x, delta, target = (torch.randn(rows, cols, dtype=torch.float64).to(dtype) for _ in range(3))
    return x, delta, target, torch.randn(rows, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)


def check_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, offset: int = 0) -> None:
    factor = 0.37
    out = ReluBlockMachine().sgr_shift(x, delta, target, alpha, beta, factor, offset)
    a, b = (factor * coefficient[:, None] for coefficient in (alpha, beta))
    truth = upcast(x) + upcast(a) * upcast(delta) + upcast(b) * upcast(target)
    any_order = any_order_shift_error(x, delta, target, alpha, beta, factor)
    assert_as_exact_as(out, x + (a.to(x.dtype) * delta + b.to(x.dtype) * target), truth, any_order)
    if x.dtype == torch.float32:
        assert torch.equal(out, (x.double() + (a * delta.double() + b * target.double())).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 63), (60, 17), (2, 8192), (2, 8193), (1, 20011)])
def test_shift(dtype, shape):
    check_shift(*shift_inputs(*shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_of_misaligned_rows(dtype):
    """Inputs with strides of their own that start anywhere; also one row for all samples."""
    cols = 301
    starts = [(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (0, 0, 0, 1), (3, 3, 3, 0), (5, 5, 5, 5)]
    for first, second, third, offset in starts:
        for stride in (cols, cols + 3, 320):
            *rows, alpha, beta = shift_inputs(3, cols, dtype)
            rows = [spread(values, stride, start) for start, values in zip((first, second, third), rows, strict=True)]
            check_shift(*rows, alpha, beta, offset)
    x, delta, target, alpha, beta = shift_inputs(4, cols, dtype)
    check_shift(x, delta[:1].expand(4, cols), target, alpha, beta)
    check_shift(x[:1].expand(4, cols), delta, target[1:2].expand(4, cols), alpha, beta)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_leaves_dead_rows_alone(dtype):
    """To the last bit, whatever delta and target hold; a row with one coefficient is alive."""
    x, delta, target, alpha, beta = shift_inputs(4, 100, dtype)
    alpha[1], beta[1], alpha[2] = 0, 0, 0
    x[1, 3], x[1, 4], x[1, 99] = -0.0, torch.inf, torch.finfo(dtype).tiny
    delta[1, 5], target[1, 6], delta[1, 99] = torch.inf, torch.nan, -torch.inf
    out = ReluBlockMachine().sgr_shift(x, delta, target, alpha, beta, 0.5)
    assert_same_bits([out[1]], [x[1]])
    assert (out[[0, 2, 3]] != x[[0, 2, 3]]).any(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_shift_shows_nan_and_inf(dtype, value):
    inputs = shift_inputs(3, 300, dtype)
    clean = ReluBlockMachine().sgr_shift(*inputs, 0.5)
    for index in range(3):
        changed = [tensor.clone() for tensor in inputs]
        changed[index][1, 17] = value
        out = ReluBlockMachine().sgr_shift(*changed, 0.5)
        assert not out[1, 17].isfinite()
        out[1, 17] = clean[1, 17]
        assert torch.equal(out, clean)


def test_shift_in_any_order():
    inputs = shift_inputs(3, 20000, torch.bfloat16)
    expected = ReluBlockMachine().sgr_shift(*inputs, 0.5)
    for schedule, seed in SCHEDULES:
        machine = ReluBlockMachine(Device(max_grid=4, schedule=schedule, seed=seed))
        assert_same_bits([expected], [machine.sgr_shift(*inputs, 0.5)])


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
    machine = ReluBlockMachine(device)
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
    machine = ReluBlockMachine()
    loss, gradient = machine.cross_entropy(logits, labels)
    assert loss == 0 and not gradient.any() and not machine.cross_entropy_hvp(logits, labels, tangent).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [1, 10, 300])
def test_labels_out_of_range_show(dtype, cols):
    logits, labels, tangent = logit_inputs(6, cols, dtype)
    machine = ReluBlockMachine()
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
    machine = ReluBlockMachine()
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
    for schedule, seed in SCHEDULES:
        device = Device(max_grid=3, schedule=schedule, seed=seed)
        assert_same_bits(expected, check_cross_entropy(logits, labels, tangent, device))
        assert_same_bits(expected, check_cross_entropy(logits, labels, tangent, replace(device, max_grid=2**31 - 1)))


def test_offsets_beyond_32_bits():
    """Rows so far apart that row * stride exceeds 2^31 elements."""
    near, delta, target, alpha, beta = shift_inputs(3, 50, torch.float16)
    far, machine = far_apart(near), ReluBlockMachine()
    assert torch.equal(far, near)
    for place in range(3):
        rows = [delta, target]
        rows.insert(place, near)
        expected = machine.sgr_shift(*rows, alpha, beta, 0.5)
        rows[place] = far
        assert_same_bits([expected], [machine.sgr_shift(*rows, alpha, beta, 0.5)])
    labels, tangent = torch.randint(50, (3,)), torch.randn(3, 50)
    assert_same_bits(list(machine.cross_entropy(near, labels)), list(machine.cross_entropy(far, labels)))
    hvps = [machine.cross_entropy_hvp(logits, labels, tangent) for logits in (near, far)]
    assert_same_bits(hvps[:1], hvps[1:])
