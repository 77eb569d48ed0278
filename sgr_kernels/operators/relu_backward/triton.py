"""The gate of a ReLU layer, and the sums of what it lets pass, in Triton.

One sweep reads and writes everything once: a program goes over tiles of (rows, channels, positions) that share their
channels, and leaves one float64 sum a channel, which `_sum_splits_kernel` adds up. Every sum has one fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.triton_rows import PROGRAMS

_TILE = 2048  # elements per step of a program
_SEGMENT = 256  # contiguous elements that are worth a tile of their own; what is left of a tile goes to further rows
_MIN_STEPS = 2  # fewer are not worth a program


@triton.jit
def behind_relu(grad, output):
    """grad, or 0 where output <= 0. Ask for closed, never for open: a NaN in output lets grad pass, as torch does."""
    if output.dtype == tl.bfloat16:
        output = output.to(tl.float32)  # older GPUs cannot compare it, and the interpreter compares its bits
    return tl.where(output <= 0, 0.0, grad)


@triton.jit(do_not_specialize=["rows", "steps", "splits", "chunk"])
def _mask_kernel(
    masked, sums, grad, output, rows, channels, size, steps, splits, chunk,
    SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`chunk` tiles of CHANNELS channels; masked, grad, output (rows, channels, size), sums (splits, channels)."""
    program = tl.program_id(0)
    split = program % splits
    blocks = tl.cdiv(size, BLOCK)
    start = split.to(tl.int64) * chunk
    row = start // blocks * ROWS
    block = start % blocks
    row_lanes = tl.arange(0, ROWS)[:, None, None]
    channel = (program // splits).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    lanes = tl.arange(0, BLOCK)[None, None, :]
    known = (channel < channels)[None, :, None]
    total = tl.zeros([ROWS, CHANNELS, BLOCK], tl.float64)
    for _ in range(0, tl.minimum(chunk, steps - start)):
        r = row + row_lanes
        s = lanes if BLOCK == 1 else block * BLOCK + lanes  # the compiler cannot know that block is always 0 then
        at = (r * channels + channel[None, :, None]) * size + s
        inside = known & (r < rows) & (s < size)
        value = behind_relu(tl.load(grad + at, mask=inside, other=0.0), tl.load(output + at, mask=inside, other=0.0))
        tl.store(masked + at, value, mask=inside)
        if SUM:
            total += value.to(tl.float64)
        block += 1  # counting is cheaper than dividing
        row += tl.where(block == blocks, ROWS, 0)
        block = tl.where(block == blocks, 0, block)
    if SUM:
        total = tl.sum(tl.sum(total, 2), 0)
        at = split.to(tl.int64) * channels + channel
        tl.store(sums + at, total.to(sums.dtype.element_ty), mask=channel < channels)


@triton.jit(do_not_specialize=["channels", "splits"])
def _sum_splits_kernel(sums, partials, channels, splits, SPLITS: tl.constexpr, CHANNELS: tl.constexpr):
    """sums[c] = the sum of partials[:, c], in one order; sums (channels,), partials (splits, channels) float64."""
    channel = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    lanes = tl.arange(0, SPLITS)
    total = tl.zeros([SPLITS, CHANNELS], tl.float64)
    for first in range(0, splits, SPLITS):
        at = (first + lanes)[:, None] * channels + channel[None, :]
        inside = (first + lanes < splits)[:, None] & (channel < channels)[None, :]
        total += tl.load(partials + at, mask=inside, other=0.0)
    tl.store(sums + channel, tl.sum(total, 0).to(sums.dtype.element_ty), mask=channel < channels)


def relu_backward(grad: Tensor, output: Tensor, sum_channels: bool) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::relu_backward``: (R, C, S) gated gradient, and (C,) or (0,) sums over R and S."""
    rows, channels, size = grad.shape
    masked = grad.new_empty(grad.shape)
    sums = grad.new_empty(channels if sum_channels else 0, dtype=loss_dtype(grad))
    if grad.numel() == 0:
        return masked, sums.zero_()
    if not sum_channels:
        rows, channels, size = 1, 1, grad.numel()  # nothing but a long row
    tile = _tile(rows, channels, size)
    tiles = triton.cdiv(channels, tile["CHANNELS"])
    steps = triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(size, tile["BLOCK"])
    splits, chunk = _split(tiles, steps) if sum_channels else (steps, 1)
    partials = sums if splits == 1 else grad.new_empty((splits, channels) if sum_channels else 0, dtype=torch.float64)
    with torch.cuda.device_of(grad):
        _mask_kernel[tiles * splits,](
            masked, partials, grad, output, rows, channels, size, steps, splits, chunk,
            SUM=sum_channels, **tile, num_warps=8,
        )  # fmt: skip
        if sum_channels and splits > 1:
            _sum_splits_kernel[triton.cdiv(channels, 32),](
                sums, partials, channels, splits, SPLITS=32, CHANNELS=32, num_warps=4
            )
    return masked, sums


def _tile(rows: int, channels: int, size: int) -> dict[str, int]:
    """Positions first, then channels, then rows: what is contiguous is read together."""
    block = min(triton.next_power_of_2(size), _TILE)
    together = min(triton.next_power_of_2(channels), max(_SEGMENT // block, 1))
    return {"ROWS": _TILE // (block * together), "CHANNELS": together, "BLOCK": block}


def _split(tiles: int, steps: int) -> tuple[int, int]:
    """Into how many programs the steps of one tile of channels are split, and how many each of them does."""
    chunk = max(triton.cdiv(steps, triton.cdiv(PROGRAMS, tiles)), _MIN_STEPS)
    return triton.cdiv(steps, chunk), chunk
