"""The CUDA kernels of sgr_loss and sgr_residual on the CPU, under the shim of ``shim/``: values, paths, schedules."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import any_order_errors, assert_as_exact_as, assert_lengths, upcast
from machine import Machine, Options
from shim_library import DTYPES, SCHEDULES, SEEDED_SCHEDULES, Device, Guarded, assert_same_bits, far_apart
from torch import Tensor

OPTIONS = [Options(normalize, reduction) for normalize in (True, False) for reduction in ("mean", "batchmean", "sum")]
SCRATCH = 192  # bytes of shared memory that every kernel has
TURNS = 2
PARTS = {"one block": 1, "turns": TURNS, "two sweeps": 0}


def device_for(parts: int, delta: Tensor, **properties) -> Device:
    """A device on which a row of delta fits into one block, or blocks take TURNS; 0: it is too small for either."""
    unit = 64  # of slices, in elements
    whole = 2 * unit * delta.element_size() * math.ceil(delta.shape[1] / unit) + 192
    shared = whole if parts == 1 else SCRATCH
    small = {"processors": 1, "max_grid": 1} if parts == 0 else {}
    return Device(shared_per_block=shared, shared_per_processor=3 * (shared + 1024), **small | properties)


def length(parts: int, cols: int, dtype: torch.dtype) -> int:
    """That of a row: ``cols`` elements, and a piece more where blocks take turns."""
    return cols + (16384 // torch.empty((), dtype=dtype).element_size() if parts == TURNS else 0)


def gradients(shape, dtype=torch.float32, noise: float | None = None) -> tuple[Tensor, Tensor]:
    delta = torch.randn(shape, dtype=torch.float64)
    target = torch.randn(shape, dtype=torch.float64) if noise is None else delta + noise * torch.randn(shape).double()
    return delta.to(dtype), target.to(dtype)


def truth(delta: Tensor, target: Tensor, options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss and both gradients from the formulas in extended precision. Dead rows are left at 0."""
    d, g = upcast(delta), upcast(target)
    d_norm, g_norm = (np.sqrt((x * x).sum(1, keepdims=True)) for x in (d, g))
    factor = 2 / np.longdouble({"mean": d.size, "batchmean": len(d), "sum": 1}[options.reduction])
    weight = np.minimum(1, (d_norm / options.floor) ** 2) if options.floor > 0 else np.ones_like(d_norm)
    if not options.normalize:
        difference = d - g
        grads = difference, -difference
        rows = difference**2
    else:
        alive = ((d_norm > options.eps) & (g_norm > options.eps))[:, 0]
        d_hat, g_hat = np.zeros_like(d), np.zeros_like(g)
        d_hat[alive], g_hat[alive] = d[alive] / d_norm[alive], g[alive] / g_norm[alive]
        difference = d_hat - g_hat
        grads = tuple(np.zeros_like(d) for _ in range(2))
        grads[0][alive] = _tangent(difference, d_hat)[alive] / d_norm[alive]
        grads[1][alive] = _tangent(-difference, g_hat)[alive] / g_norm[alive]
        rows = difference**2
    loss = (weight * rows.sum(1, keepdims=True)).sum() * factor / 2
    return np.asarray(loss), *(factor * weight * x for x in grads)


def _tangent(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return vectors - (vectors * unit).sum(1, keepdims=True) * unit


def plain(delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch and autograd, in the dtype of the input; dead rows are left out."""
    d, g = delta.clone().requires_grad_(), target.clone().requires_grad_()
    norms = [x.square().sum(1, keepdim=True).sqrt() for x in (d, g)]
    weight = (norms[0].detach() / options.floor).square().clamp(max=1) if options.floor > 0 else 1.0
    alive = (norms[0] > options.eps) & (norms[1] > options.eps)
    unit = [x / norm for x, norm in zip((d, g), norms, strict=True)] if options.normalize else (d, g)
    rows = weight * (unit[0] - unit[1]).square().sum(1, keepdim=True)
    loss = (rows[alive] if options.normalize else rows).sum()
    loss = loss / {"mean": delta.numel(), "batchmean": len(delta), "sum": 1}[options.reduction]
    grads = [grad.nan_to_num(0.0) for grad in torch.autograd.grad(loss, (d, g))]
    return loss.detach(), *grads


def check(delta: Tensor, target: Tensor, options: Options, machine: Machine, offset: int = 0) -> None:
    """Loss, both gradients and the residual: as exact as plain torch, see helpers.assert_as_exact_as."""
    expected, usual = truth(delta, target, options), plain(delta, target, options)
    any_order = any_order_errors(
        delta, target, normalize=options.normalize, reduction=options.reduction, floor=options.floor
    )
    loss, coef = machine.sgr_loss(delta, target, options)
    assert_as_exact_as(loss, usual[0], expected[0], any_order[0])
    one = torch.ones((), dtype=loss.dtype)
    grad_delta = machine.sgr_loss_backward(one, delta, target, coef[0], coef[1], offset)
    grad_target = machine.sgr_loss_backward(one, target, delta, coef[2], coef[1], offset)
    assert_as_exact_as(grad_delta, usual[1], expected[1], any_order[1])
    assert_as_exact_as(grad_target, usual[2], expected[2], any_order[2])
    assert_lengths(coef[3], expected[1])
    loss, v = machine.sgr_residual(delta, target, options, offset)
    assert_as_exact_as(loss, usual[0], expected[0], any_order[0])
    assert_as_exact_as(v, usual[1], expected[1], any_order[1])


def everything(delta: Tensor, target: Tensor, options: Options, machine: Machine) -> list[Tensor]:
    loss, coef = machine.sgr_loss(delta, target, options)
    grad = machine.sgr_loss_backward(torch.ones_like(loss), delta, target, coef[0], coef[1])
    return [loss, coef, grad, *machine.sgr_residual(delta, target, options)]


@pytest.mark.parametrize("path", PARTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.reduction}-{'unit' if o.normalize else 'raw'}")
def test_every_path(path, dtype, options):
    """Values, the path taken, and the same bits in whatever order threads and blocks run."""
    delta, target = gradients((3, length(PARTS[path], 1501, dtype)), dtype)
    machine = Machine(device_for(PARTS[path], delta))
    check(delta, target, options, machine)
    blocks = [launch.blocks for launch in machine.launches]
    if path == "two sweeps" or (path == "turns" and options.normalize and dtype == torch.float64):
        assert len(blocks) > 1
    else:
        assert blocks == [2 * 3 * 2 if path == "turns" else 3]
    results = everything(delta, target, options, machine)
    for schedule in ("reverse", "random"):
        other = Machine(replace(machine.device, schedule=schedule))
        assert_same_bits(results, everything(delta, target, options, other))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (2, 63), (60, 17), (2, 8192), (2, 8193), (1, 30011)])
def test_odd_shapes(dtype, shape):
    """Rows shorter than a pack, than a warp; one segment, two, several."""
    for options in (Options(reduction="batchmean"), Options(normalize=False)):
        check(*gradients(shape, dtype), options, Machine())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 1040, 4096, 16384])
@pytest.mark.parametrize("options", [Options(), Options(False, "sum", 5.0)], ids=["unit", "raw"])
def test_rows_in_registers(options, size, dtype):
    """Of up to 16 KiB, in whole packs: values, and the same bits in every order. Beside them the rows that are left to
    shared memory because nothing is aligned, or there are more than processors."""
    delta, target = gradients((3, size // torch.empty((), dtype=dtype).element_size()), dtype)
    machine = Machine()
    check(delta, target, options, machine)
    [launch] = machine.launches
    delta[1] = 0
    assert launch.shared_bytes == SCRATCH and launch.threads == max(64, math.ceil(size / 16 / 4 / 32) * 32)
    results = machine.sgr_residual(delta, target, options)
    for schedule, seed in SEEDED_SCHEDULES:
        other = Machine(Device(schedule=schedule, seed=seed))
        assert_same_bits(list(results), list(other.sgr_residual(delta, target, options)))
    for machine, offset in ((Machine(), 1), (Machine(Device(processors=2)), 0)):
        others = machine.sgr_residual(delta, target, options, offset)
        assert machine.launches[0].shared_bytes > SCRATCH
        torch.testing.assert_close(others, results, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_element_a_row(dtype):
    """Every cosine is +-1: the loss counts the opposite signs and the gradient is 0."""
    delta, target = gradients((9, 1), dtype)
    opposite = int((delta.sign() != target.sign()).sum())
    loss, coef, grad, other, v = everything(delta, target, Options(reduction="sum"), Machine())
    assert loss == other == 4 * opposite
    assert grad.abs().max() < 1e-6 and v.abs().max() < 1e-6 and coef.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, TURNS, 0])
def test_misaligned_pointers_and_strides(dtype, parts):
    """Rows that start anywhere, together or not; outputs that do too; strides of 0, of n, beyond n."""
    cols = length(parts, 301, dtype)
    for first, second, offset in [(1, 1, 1), (1, 2, 0), (3, 3, 0), (0, 0, 1), (5, 5, 5)]:
        for stride in (cols, cols + 3, cols + 16):
            wide = [torch.full((4 * stride + 16,), torch.nan, dtype=dtype) for _ in range(2)]
            views = [
                memory[start:].as_strided((3, cols), (stride, 1), start)
                for memory, start in zip(wide, (first, second), strict=True)
            ]
            for view, values in zip(views, gradients((3, cols), dtype), strict=True):
                view.copy_(values)
            check(*views, Options(), Machine(device_for(parts, views[0])), offset)
    delta, target = gradients((1, cols), dtype)
    check(delta.expand(4, cols), gradients((4, cols), dtype)[1], Options(), Machine(device_for(parts, delta)))
    check(delta.expand(4, cols), target.expand(4, cols), Options(), Machine(device_for(parts, delta)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("parts", [1, TURNS, 0])
def test_near_parallel_rows_keep_their_digits(dtype, noise, parts):
    delta, target = gradients((4, 4096), dtype, noise=noise)
    check(delta, target, Options(), Machine(device_for(parts, delta)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, TURNS, 0])
def test_dead_rows_add_nothing(dtype, parts):
    delta, target = gradients((6, length(parts, 400, dtype)), dtype)
    delta[1], target[2], delta[4], target[4] = 0, 0, 0, 0
    delta[2, 0] = torch.finfo(dtype).max  # in a row that is dead because of its target
    delta[2, 1] = torch.inf
    dead, alive = [1, 2, 4], [0, 3, 5]
    machine, options = Machine(device_for(parts, delta)), Options(reduction="sum")
    loss, coef, grad, other, v = everything(delta, target, options, machine)
    few = everything(delta[alive], target[alive], options, machine)
    for with_dead, without in ((loss, few[0]), (other, few[3])):  # the same numbers, maybe added in another order
        assert abs(with_dead - without) <= 4 * torch.finfo(loss.dtype).eps * without
    assert not coef[:, dead].any() and not grad[dead].any() and not v[dead].any()
    assert torch.equal(coef[:, alive], few[1]) and torch.equal(grad[alive], few[2]) and torch.equal(v[alive], few[4])


@pytest.mark.parametrize("parts", [1, TURNS, 0])
def test_eps_decides_what_is_dead(parts):
    delta, target = gradients((4, length(parts, 300, torch.float32)))
    delta[1] *= 1e-3
    norm = float(delta[1].double().norm())
    for eps, expected in [(0.99 * norm, [False] * 4), (1.01 * norm, [False, True, False, False])]:
        results = everything(delta, target, Options(eps=eps), Machine(device_for(parts, delta)))
        assert [not results[index][row].any() for index in (2, 4) for row in range(4)] == 2 * expected
        assert not results[1][:, [row for row in range(4) if expected[row]]].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("floor", [0.0, 5.0])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_nan_and_inf_show(parts, dtype, normalize, value, floor):
    delta, target = gradients((4, length(parts, 300, dtype)), dtype)
    clean = everything(delta, target, Options(normalize, "sum", floor), Machine())
    for rows in (delta, target):
        kept, rows[2, 17] = rows[2, 17].clone(), value
        loss, coef, grad, other, v = everything(
            delta, target, Options(normalize, "sum", floor), Machine(device_for(parts, delta))
        )
        rows[2, 17] = kept
        assert not loss.isfinite() and not other.isfinite()
        assert not grad[2].isfinite().all() and not v[2].isfinite().all()
        healthy = [0, 1, 3]
        assert coef[:, healthy].isfinite().all()
        assert torch.equal(grad[healthy], clean[2][healthy])
        torch.testing.assert_close(v[healthy], clean[4][healthy], rtol=1e-6, atol=0)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
def test_floor_fades_rows_out(normalize, dtype, parts):
    delta, target = gradients((5, length(parts, 400, dtype)), dtype)
    delta *= torch.tensor([1.0, 0.5, 0.1, 2.0, 0.01], dtype=dtype)[:, None]
    machine, floor = Machine(device_for(parts, delta)), float(delta[1].double().norm()) * 1.5
    for reduction in ("mean", "sum"):
        options = Options(normalize, reduction, floor)
        check(delta, target, options, machine)
        tensor = replace(options, floor=torch.tensor(floor, dtype=torch.float64))
        assert_same_bits(everything(delta, target, options, machine), everything(delta, target, tensor, machine))
    with_zero = replace(options, floor=torch.zeros((), dtype=torch.float64))
    without = replace(options, floor=0.0)
    assert_same_bits(everything(delta, target, with_zero, machine), everything(delta, target, without, machine))


@pytest.mark.parametrize("dtype", DTYPES)
def test_grad_loss_scales_the_gradient(dtype):
    delta, target = gradients((3, 500), dtype)
    loss, coef = Machine().sgr_loss(delta, target, Options())
    scale = torch.tensor(-3.7, dtype=loss.dtype)
    grad = Machine().sgr_loss_backward(scale, delta, target, coef[0], coef[1])
    scaled = (float(scale) * coef[:2, :, None]).numpy().astype(np.longdouble)
    exact = scaled[0] * upcast(delta) + scaled[1] * upcast(target)
    assert np.abs(upcast(grad) - exact).max() <= torch.finfo(dtype).eps * np.abs(exact).max()


@pytest.mark.parametrize("parts", [1, 0])
@pytest.mark.parametrize("cols", [301, 304, 20000])
def test_more_rows_than_the_grid_has_room_for(parts, cols):
    """Blocks take several rows or segments in turn; the result is the same to the last bit, in every schedule."""
    delta, target = gradients((23 if cols < 1000 else 5, cols), torch.bfloat16)
    for normalize in (True, False):
        options, device = Options(normalize), device_for(parts, delta)
        expected = everything(delta, target, options, Machine(device))
        for schedule, seed in [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]:
            small = Machine(replace(device, max_grid=5, processors=1, schedule=schedule, seed=seed))
            assert_same_bits(expected, everything(delta, target, options, small))
            assert max(launch.blocks for launch in small.launches) <= 5


def test_offsets_beyond_32_bits():
    """Rows so far apart that row * stride exceeds 2^31 elements."""
    near, target = gradients((3, 50), torch.float16)
    far = far_apart(near)
    for parts in (1, 0):
        machine = Machine(device_for(parts, near))
        assert_same_bits(everything(near, target, Options(), machine), everything(far, target, Options(), machine))
        assert_same_bits(everything(target, near, Options(), machine), everything(target, far, Options(), machine))


def test_segments_end_in_any_order():
    """Segments of a row run as blocks of their own; whichever comes last finishes the row."""
    delta, target = gradients((3, 4 * 8192 + 5), torch.float64)
    expected = Machine().sgr_loss(delta, target, Options())
    for schedule, seed in itertools.product(SCHEDULES, range(3)):
        machine = Machine(Device(schedule=schedule, seed=seed))
        assert_same_bits(list(expected), list(machine.sgr_loss(delta, target, Options())))
    assert [launch.blocks for launch in machine.launches] == [15, 15]


def test_guards_notice_a_stray_write():
    """The memory around outputs is really looked at."""
    for shift in (-1, 1):
        output = Guarded((4,), torch.float32)
        output.tensor.as_strided((1,), (1,), output.tensor.storage_offset() + (4 if shift > 0 else -1)).fill_(1.0)
        with pytest.raises(AssertionError, match="outside"):
            output.check()


def test_rounding_of_the_shim_is_that_of_torch():
    """Half types of the shim convert like torch's: all 2^16 patterns read back, and doubles round to nearest even."""
    for dtype in (torch.float16, torch.bfloat16):
        patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        values = patterns[patterns.isfinite()][None]
        one, zero = torch.ones((), dtype=torch.float32), torch.zeros(1, dtype=torch.float64)
        weight = torch.ones(1, dtype=torch.float64)
        back = Machine().sgr_loss_backward(one, values, values, weight, zero)
        assert torch.equal(back, values)
        third = Machine().sgr_loss_backward(one, values, values, weight / 3, zero)
        single = (values.double() / 3).float().to(dtype)  # rounds twice: now and then one off
        assert torch.equal(third.isinf(), single.isinf())
        off = (third.view(torch.int16).int() - single.view(torch.int16).int()).abs()
        assert off.max() <= 1 and math.isclose(off.float().mean().item(), 0, abs_tol=1e-2)
