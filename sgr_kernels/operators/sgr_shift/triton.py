"""x + factor * v of the residual in Triton, without v."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton_rows import block_of, combine, row_stride

# --- device -----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["blocks"])
def _shift_kernel(
    out, x, delta, target, alpha, beta, x_stride, delta_stride, target_stride, n, blocks, factor: tl.float64,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out = x + factor (alpha_b delta_b + beta_b target_b), one block of one row a program."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    at = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    d = tl.load(delta + row * delta_stride + at, mask=inside)
    g = tl.load(target + row * target_stride + at, mask=inside)
    factor = tl.full([], factor, tl.float64)  # the interpreter hands on a Python number
    value = combine(d, g, tl.load(alpha + row), tl.load(beta + row), factor)
    value += tl.load(x + row * x_stride + at, mask=inside).to(tl.float64)
    if out.dtype.element_ty.primitive_bitwidth < 64:
        value = value.to(tl.float32)  # Triton has no direct way from float64 to bfloat16
    tl.store(out + row * n + at, value.to(out.dtype.element_ty), mask=inside)


# --- host -------------------------------------------------------------------------------------------------------------


def sgr_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float) -> Tensor:
    """Implementation of ``sgr_triton::sgr_shift``: (B, n) in the dtype of ``x``."""
    batch, n = x.shape
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    block = block_of(n)
    blocks = triton.cdiv(n, block)
    with torch.cuda.device_of(x):
        _shift_kernel[batch * blocks,](
            out, x, delta, target, alpha.contiguous(), beta.contiguous(),
            row_stride(x), row_stride(delta), row_stride(target), n, blocks, factor,
            BLOCK=block, num_warps=block // 256,
        )  # fmt: skip
    return out
