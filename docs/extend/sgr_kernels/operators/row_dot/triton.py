"""row_dot in Triton: one program a row; its derivative: one program for each block of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.triton_rows import block_of, fold, launch_options, row_stride

# --- device -----------------------------------------------------------------------------------------------------------


@triton.jit
def _dot_kernel(dots, a, b, a_stride, b_stride, n, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    a += row * a_stride
    b += row * b_stride
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK // VECTOR], tl.float64)
    for at in range(0, n, BLOCK):
        inside = at + lanes < n
        x = tl.load(a + at + lanes, mask=inside, other=0.0).to(tl.float64)
        y = tl.load(b + at + lanes, mask=inside, other=0.0).to(tl.float64)
        total += fold(x * y, VECTOR)
    tl.store(dots + row, tl.sum(total, 0).to(dots.dtype.element_ty))


@triton.jit(do_not_specialize=["blocks"])
def _backward_kernel(grad_a, grad_b, grad, a, b, a_stride, b_stride, n, blocks, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    at = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    factor = tl.load(grad + row)  # float32, or float64: converts the rows to what it is
    x = tl.load(a + row * a_stride + at, mask=inside).to(factor.dtype)
    y = tl.load(b + row * b_stride + at, mask=inside).to(factor.dtype)
    tl.store(grad_a + row * n + at, (factor * y).to(grad_a.dtype.element_ty), mask=inside)
    tl.store(grad_b + row * n + at, (factor * x).to(grad_b.dtype.element_ty), mask=inside)


# --- host -------------------------------------------------------------------------------------------------------------


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::row_dot``."""
    batch, n = a.shape
    dots = a.new_zeros(batch, dtype=loss_dtype(a))
    if a.numel() > 0:
        with torch.cuda.device_of(a):
            _dot_kernel[batch,](dots, a, b, row_stride(a), row_stride(b), n, **launch_options(a, n))
    return dots


def row_dot_backward(grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::row_dot_backward``."""
    batch, n = a.shape
    grad_a, grad_b = a.new_empty(a.shape), b.new_empty(b.shape)
    if a.numel() > 0:
        block = block_of(n)
        blocks = triton.cdiv(n, block)
        with torch.cuda.device_of(a):
            _backward_kernel[batch * blocks,](
                grad_a, grad_b, grad, a, b, row_stride(a), row_stride(b), n, blocks, BLOCK=block, num_warps=block // 256
            )
    return grad_a, grad_b
