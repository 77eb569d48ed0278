"""linear_relu_delta in Triton: the masked gradient A never exists in memory, and the epilogue of the product leaves the
sums of which the loss is made.
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
