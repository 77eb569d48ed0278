"""The two products of Eq. 35 in Triton: the masked gradient A and the shifted input x + factor v never exist in memory,
and the epilogue of the first product leaves the sums of which the loss is made.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.options import Options
from ..common.triton_products import (
    REGISTERS,
    convert,
    far_apart,
    multiply_add,
    offsets,
    place,
    precision_of,
    refuse_float64,
    tile_of,
)
from ..common.triton_rows import terms
from ..relu_backward.triton import behind_relu
from ..sgr_loss.triton import finish_rows, sgr_loss


@triton.jit
def _halves(tile):
    """Left and right half of a tile, without moving anything between threads."""
    tile = tl.reshape(tile, [tile.shape[0], 2, tile.shape[1] // 2])
    return tl.split(tl.permute(tile, [0, 2, 1]))


@triton.jit
def _finish(delta, target, total, row, start, batch, n, target_down, target_across, DISTANCE: tl.constexpr):
    """Store some columns of delta; the sums over them of the `terms` of what was stored."""
    column = start + tl.arange(0, total.shape[1])
    inside = (row < batch)[:, None] & (column < n)[None, :]
    d = convert(total, delta.dtype.element_ty)
    tl.store(delta + row[:, None] * n + column[None, :], d, mask=inside)
    g = tl.load(target + row[:, None] * target_down + column[None, :] * target_across, mask=inside, other=0.0)
    dd, gg, third = terms(d, g, 1.0, 1.0, DISTANCE)
    return tl.sum(dd, 1), tl.sum(gg, 1), tl.sum(third, 1)


@triton.jit
def _finish_halves(delta, target, total, row, start, batch, n, target_down, target_across, DISTANCE: tl.constexpr):
    """`_finish` of one half after the other."""
    left, right = _halves(total)
    dd, gg, third = _finish(delta, target, left, row, start, batch, n, target_down, target_across, DISTANCE)
    start += total.shape[1] // 2
    x, y, z = _finish(delta, target, right, row, start, batch, n, target_down, target_across, DISTANCE)
    return dd + x, gg + y, third + z


@triton.jit
def _delta_kernel(
    delta, partials, grad, output, weight, target, batch, m, n,
    grad_down, grad_across, output_down, output_across, weight_down, weight_across, target_down, target_across,
    DISTANCE: tl.constexpr, PRECISION: tl.constexpr, EVEN: tl.constexpr, FAR: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, DEEP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of delta = A weight, and partials[:, row, tile] = the sums of `terms` over its columns.

    delta (batch, n) contiguous, partials (3, batch, tiles across) float64, grad, output (batch, m), weight (m, n),
    target (batch, n).
    """
    tiles_across = tl.cdiv(n, ACROSS)
    tile_row, tile = place(tl.program_id(0), tl.cdiv(batch, DOWN), tiles_across, GROUP)
    row = tile_row.to(tl.int64) * DOWN + tl.arange(0, DOWN)
    start = tile.to(tl.int64) * ACROSS
    column = start + tl.arange(0, ACROSS)
    deep = tl.arange(0, DEEP)
    step = tl.full([], DEEP, tl.int64)
    corner = tile_row.to(tl.int64) * DOWN
    grad += corner * grad_down
    output += corner * output_down
    weight += start * weight_across
    grad_at = offsets(DOWN, DEEP, grad_down, grad_across, FAR)
    output_at = offsets(DOWN, DEEP, output_down, output_across, FAR)
    weight_at = offsets(DEEP, ACROSS, weight_down, weight_across, FAR)
    inside_a = (row < batch)[:, None]
    inside_w = (column < n)[None, :]
    total = tl.zeros([DOWN, ACROSS], tl.float32)
    for at in range(0, m, DEEP):
        # What lies beyond the last feature must be 0 in both operands: there may be NaN.
        mask_a, mask_w = inside_a, inside_w
        if not EVEN:
            mask_a = mask_a & (at + deep < m)[None, :]
            mask_w = mask_w & (at + deep < m)[:, None]
        y_tile = tl.load(output + output_at, mask=mask_a, other=0.0)
        a = behind_relu(tl.load(grad + grad_at, mask=mask_a, other=0.0), y_tile)
        total = multiply_add(a, tl.load(weight + weight_at, mask=mask_w, other=0.0), total, PRECISION)
        grad += step * grad_across
        output += step * output_across
        weight += step * weight_down
    # In quarters: the float64 copies of more do not fit into registers.
    left, right = _halves(total)
    dd, gg, third = _finish_halves(delta, target, left, row, start, batch, n, target_down, target_across, DISTANCE)
    start += ACROSS // 2
    x, y, z = _finish_halves(delta, target, right, row, start, batch, n, target_down, target_across, DISTANCE)
    size = batch.to(tl.int64) * tiles_across
    at = row * tiles_across + tile
    tl.store(partials + at, dd + x, mask=row < batch)
    tl.store(partials + size + at, gg + y, mask=row < batch)
    tl.store(partials + 2 * size + at, third + z, mask=row < batch)


def linear_relu_delta(
    grad: Tensor, output: Tensor, weight: Tensor, target: Tensor, *arguments
) -> tuple[Tensor, Tensor, Tensor]:
    """Implementation of ``sgr_triton::linear_relu_delta``: delta = A weight (B, n), and what sgr_loss says of it."""
    refuse_float64(grad)
    (batch, m), n = grad.shape, weight.shape[1]
    options, delta = Options.of(*arguments), grad.new_empty((batch, n))
    if delta.numel() == 0:
        return delta, *sgr_loss(delta, target, *arguments)
    tile = tile_of(batch, n, grad, output, weight, target)
    tiles_across = triton.cdiv(n, tile["ACROSS"])
    partials = grad.new_empty((3, batch, tiles_across), dtype=torch.float64)
    with torch.cuda.device_of(grad):
        _delta_kernel[triton.cdiv(batch, tile["DOWN"]) * tiles_across,](
            delta, partials, grad, output, weight, target, batch, m, n,
            *grad.stride(), *output.stride(), *weight.stride(), *target.stride(),
            DISTANCE=not options.normalize, PRECISION=precision_of(grad.dtype), EVEN=m % tile["DEEP"] == 0,
            FAR=far_apart(grad, output, weight), **tile, num_stages=4, maxnreg=REGISTERS,
        )  # fmt: skip
        return delta, *finish_rows(partials, delta, options, exact=False)


@triton.jit(do_not_specialize=["batch"])
def _factors_kernel(factors, alpha, beta, batch, factor: tl.float64, BLOCK: tl.constexpr):
    """factors (4, B): two float32 numbers whose product is factor * alpha, and two for beta; alpha, beta (B,).

    factor * alpha, of size 1 / |delta|^2, overflows float32 where alpha * delta does not. Two numbers applied one after
    the other keep every intermediate result in range.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    factor = tl.full([], factor, tl.float64)  # the interpreter hands on a Python number
    for which in tl.static_range(2):
        pointer = alpha if which == 0 else beta
        product = factor * tl.load(pointer + row, mask=row < batch, other=0.0)
        first = tl.sqrt(tl.abs(product)).to(tl.float32)
        nothing = first == 0  # NaN goes on
        second = tl.where(nothing, 0.0, product / tl.where(nothing, 1.0, first).to(tl.float64))
        tl.store(factors + 2 * which * batch + row, first, mask=row < batch)
        tl.store(factors + (2 * which + 1) * batch + row, second.to(tl.float32), mask=row < batch)


@triton.jit
def _shifted(x, delta, target, factors, batch, mask):
    """x + factor (alpha_b delta_b + beta_b target_b) in float32; x where both coefficients are 0."""
    a1 = tl.load(factors, mask=mask, other=0.0)
    a2 = tl.load(factors + batch, mask=mask, other=0.0)
    b1 = tl.load(factors + 2 * batch, mask=mask, other=0.0)
    b2 = tl.load(factors + 3 * batch, mask=mask, other=0.0)
    v = delta.to(tl.float32) * a1[:, None] * a2[:, None] + target.to(tl.float32) * b1[:, None] * b2[:, None]
    nothing = (a1 == 0) & (b1 == 0)
    return x.to(tl.float32) + tl.where(nothing[:, None], 0.0, v)


@triton.jit
def _weight_grad_kernel(
    grad_weight, grad_bias, grad, output, x, delta, target, factors, batch, m, n,
    grad_down, grad_across, output_down, output_across, x_down, x_across,
    delta_down, delta_across, target_down, target_across,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, EVEN: tl.constexpr, FAR: tl.constexpr,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, DEEP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of A^T (x + factor v); programs of the first column of tiles also sum up their columns of A.

    grad_weight (m, n), grad_bias (m,), grad, output (batch, m), x, delta, target (batch, n), factors (4, batch).
    """
    tiles_down = tl.cdiv(m, DOWN)
    tile_row, tile = place(tl.program_id(0), tiles_down, tl.num_programs(0) // tiles_down, GROUP)
    row = tile_row.to(tl.int64) * DOWN + tl.arange(0, DOWN)
    column = tile.to(tl.int64) * ACROSS + tl.arange(0, ACROSS)
    sample = tl.arange(0, DEEP).to(tl.int64)
    step = tl.full([], DEEP, tl.int64)
    first_row, first_column = tile_row.to(tl.int64) * DOWN, tile.to(tl.int64) * ACROSS
    grad += first_row * grad_across
    output += first_row * output_across
    x += first_column * x_across
    delta += first_column * delta_across
    target += first_column * target_across
    grad_at = offsets(DOWN, DEEP, grad_across, grad_down, FAR)
    output_at = offsets(DOWN, DEEP, output_across, output_down, FAR)
    x_at = offsets(DEEP, ACROSS, x_down, x_across, FAR)
    delta_at = offsets(DEEP, ACROSS, delta_down, delta_across, FAR)
    target_at = offsets(DEEP, ACROSS, target_down, target_across, FAR)
    inside_a = (row < m)[:, None]
    inside_x = (column < n)[None, :]
    total = tl.zeros([DOWN, ACROSS], tl.float32)
    sums = tl.zeros([DOWN, DEEP // 2], tl.float32)
    for at in tl.range(0, batch, DEEP, disable_licm=True):  # what is moved out of the loop takes registers
        # What lies beyond the last sample must be 0 in both operands: there may be NaN.
        mask_a, mask_x, mask = inside_a, inside_x, at + sample < batch
        if not EVEN:
            mask_a = mask_a & mask[None, :]
            mask_x = mask_x & mask[:, None]
        y_tile = tl.load(output + output_at, mask=mask_a, other=0.0)
        a = behind_relu(tl.load(grad + grad_at, mask=mask_a, other=0.0), y_tile)
        shifted = _shifted(
            tl.load(x + x_at, mask=mask_x, other=0.0), tl.load(delta + delta_at, mask=mask_x, other=0.0),
            tl.load(target + target_at, mask=mask_x, other=0.0), factors + at + sample, batch, mask,
        )  # fmt: skip
        total = multiply_add(a, convert(shifted, grad.dtype.element_ty), total, PRECISION)
        if BIAS:
            sums += tl.sum(tl.reshape(a.to(tl.float32), [DOWN, 2, DEEP // 2]), 1)  # both are in one thread
        grad += step * grad_down
        output += step * output_down
        x += step * x_down
        delta += step * delta_down
        target += step * target_down
    tl.store(grad_weight + row[:, None] * n + column[None, :], total, mask=inside_a & inside_x)
    if BIAS and tile == 0:
        tl.store(grad_bias + row, tl.sum(sums, 1), mask=row < m)


def linear_relu_weight_grad(
    grad: Tensor,
    output: Tensor,
    x: Tensor,
    delta: Tensor,
    target: Tensor,
    alpha: Tensor,
    beta: Tensor,
    factor: float,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::linear_relu_weight_grad``: A^T (x + factor v), and the column sums of A."""
    refuse_float64(grad)
    (batch, m), n = grad.shape, x.shape[1]
    grad_weight = grad.new_empty((m, n), dtype=torch.float32)
    grad_bias = grad.new_empty(m if need_bias else 0, dtype=torch.float32)
    if m == 0 or batch == 0:
        return grad_weight.zero_(), grad_bias.zero_()
    tile = tile_of(m, n, grad, output, x, delta, target)
    factors = grad.new_empty((4, batch), dtype=torch.float32)
    tiles_across = max(triton.cdiv(n, tile["ACROSS"]), 1)  # the bias gradient wants one even where n = 0
    with torch.cuda.device_of(grad):
        _factors_kernel[triton.cdiv(batch, 256),](
            factors, alpha.contiguous(), beta.contiguous(), batch, factor, BLOCK=256, num_warps=4
        )
        _weight_grad_kernel[triton.cdiv(m, tile["DOWN"]) * tiles_across,](
            grad_weight, grad_bias, grad, output, x, delta, target, factors, batch, m, n,
            *grad.stride(), *output.stride(), *x.stride(), *delta.stride(), *target.stride(),
            BIAS=need_bias, PRECISION=precision_of(grad.dtype), EVEN=batch % tile["DEEP"] == 0,
            FAR=far_apart(grad, output, x, delta, target), **tile, num_stages=2, maxnreg=REGISTERS,
        )  # fmt: skip
    return grad_weight, grad_bias
