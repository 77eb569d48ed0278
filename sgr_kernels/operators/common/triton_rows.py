"""What the Triton kernels of rows (B, n) share: sums, gradients from coefficients, losses, how rows are split.

Long rows are split over several programs by a rule that knows nothing but the shape, and every sum has one fixed order,
so results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dtypes import loss_dtype

_BLOCK = 2048  # elements of a row per step of a program
_MIN_CHUNK = 2 * _BLOCK  # shorter pieces of a row are not worth a program
_PROGRAMS = 2048  # a few waves on the largest GPU; asking the device would make results depend on it


# --- device -----------------------------------------------------------------------------------------------------------


@triton.jit
def terms(delta, target, d_norm, g_norm, DISTANCE: tl.constexpr):
    """delta^2, target^2, and delta target or (delta / d_norm - target / g_norm)^2, in float64."""
    d = delta.to(tl.float64)
    g = target.to(tl.float64)
    if DISTANCE:
        difference = d / d_norm - g / g_norm
        third = difference * difference
    else:
        third = d * g
    return d * d, g * g, third


@triton.jit
def fold(x, VECTOR: tl.constexpr):
    """Add up the neighbours that one thread has loaded with one instruction: few accumulators, few registers."""
    return tl.sum(tl.reshape(x, [x.shape[0] // VECTOR, VECTOR], can_reorder=True), 1)


@triton.jit
def combine(delta, target, alpha, beta, factor):
    """factor (alpha delta + beta target) in float64; 0 for a row without a gradient, whatever it holds."""
    nothing = (alpha == 0) & (beta == 0)
    value = factor * alpha * delta.to(tl.float64) + factor * beta * target.to(tl.float64)
    return tl.where(nothing, 0.0, value)


@triton.jit(do_not_specialize=["count"])
def _total_kernel(loss, losses, count, BLOCK: tl.constexpr):
    """The sum of `count` losses, by one program, in one order."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, count, BLOCK):
        total += tl.load(losses + at + lanes, mask=at + lanes < count, other=0.0)
    tl.store(loss, tl.sum(total, 0))


# --- host -------------------------------------------------------------------------------------------------------------


def split_rows(batch: int, n: int) -> tuple[int, int]:
    """Into how many pieces a row is split, and of how many elements (a multiple of the block)."""
    wanted = triton.cdiv(_PROGRAMS, batch)
    chunk = max(triton.cdiv(triton.cdiv(n, wanted), _BLOCK) * _BLOCK, _MIN_CHUNK)
    return triton.cdiv(n, chunk), chunk


def block_of(n: int) -> int:
    return min(max(triton.next_power_of_2(n), 256), _BLOCK)


def launch_options(delta: Tensor, n: int) -> dict[str, int]:
    """Eight elements a thread, in 16-byte loads."""
    block = block_of(n)
    return {"BLOCK": block, "VECTOR": 16 // delta.element_size(), "num_warps": block // 256}


def row_stride(rows: Tensor) -> int:
    # A single row has no stride that matters; 0 is divisible by 16, which lets the compiler load 16 bytes at a time.
    return rows.stride(0) if len(rows) > 1 else 0


def new_losses(delta: Tensor, count: int) -> Tensor:
    """Space for partial losses; a single one is the result."""
    return delta.new_empty(count, dtype=loss_dtype(delta) if count == 1 else torch.float64)


def total_loss(losses: Tensor, delta: Tensor) -> Tensor:
    if len(losses) == 1:
        return losses[0]
    loss = delta.new_empty((), dtype=loss_dtype(delta))
    _total_kernel[1,](loss, losses, len(losses), BLOCK=2048, num_warps=8)
    return loss
