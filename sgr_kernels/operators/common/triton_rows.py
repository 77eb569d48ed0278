"""What the Triton kernels of rows (B, n) share: sums, gradients from coefficients, losses, how rows are split.

Long rows are split over several programs by a rule that knows nothing but the shape, and every sum has one fixed order,
so results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import loss_dtype

_BLOCK = 2048  # elements of a row per step of a program
_MIN_CHUNK = 2 * _BLOCK  # shorter pieces of a row are not worth a program
PROGRAMS = 2048  # a few waves on the largest GPU; asking the device would make results depend on it


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


@triton.jit(do_not_specialize=["blocks"])
def combine_kernel(
    out, x, delta, target, alpha, beta, factor_pointer, x_stride, delta_stride, target_stride, n, blocks,
    factor: tl.float64, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = x + factor (alpha_b delta_b + beta_b target_b), one block of one row a program. x and factor_pointer may be
    None. x, delta, target (B, n), alpha, beta (B,), out (B, n) contiguous.
    """
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    at = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    d = tl.load(delta + row * delta_stride + at, mask=inside)
    g = tl.load(target + row * target_stride + at, mask=inside)
    factor = tl.full([], factor, tl.float64)  # the interpreter hands on a Python number
    if factor_pointer is not None:
        factor = tl.load(factor_pointer).to(tl.float64)
    value = combine(d, g, tl.load(alpha + row), tl.load(beta + row), factor)
    if x is not None:
        value += tl.load(x + row * x_stride + at, mask=inside).to(tl.float64)
    if out.dtype.element_ty.primitive_bitwidth < 64:
        value = value.to(tl.float32)  # Triton has no direct way from float64 to bfloat16
    tl.store(out + row * n + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def _total_kernel(loss, losses, count, BLOCK: tl.constexpr):
    """The sum of `count` losses, by one program, in one order."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, count, BLOCK):
        total += tl.load(losses + at + lanes, mask=at + lanes < count, other=0.0)
    tl.store(loss, tl.sum(total, 0))


def split_rows(batch: int, n: int) -> tuple[int, int]:
    """Into how many pieces a row is split, and of how many elements (a multiple of the block)."""
    wanted = triton.cdiv(PROGRAMS, batch)
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
    block = 256 if len(losses) <= 256 else 2048  # few are added up by one warp, which waits for no other
    _total_kernel[1,](loss, losses, len(losses), BLOCK=block, num_warps=block // 256)
    return loss


def combined(
    out: Tensor,
    delta: Tensor,
    target: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    x: Tensor | None = None,
    factor: float | Tensor = 1.0,
) -> Tensor:
    """Writes and returns ``out`` = x + factor (alpha_b delta_b + beta_b target_b), see `combine_kernel`."""
    if out.numel() == 0:
        return out
    batch, n = delta.shape
    block = block_of(n)
    blocks = triton.cdiv(n, block)
    on_device = isinstance(factor, Tensor)
    with torch.cuda.device_of(delta):
        combine_kernel[batch * blocks,](
            out, x, delta, target, alpha.contiguous(), beta.contiguous(), factor if on_device else None,
            0 if x is None else row_stride(x), row_stride(delta), row_stride(target), n, blocks,
            1.0 if on_device else factor, BLOCK=block, num_warps=block // 256,
        )  # fmt: skip
    return out
