"""sgr_residual in Triton. Rows that fit into the registers of one program are read once; others go through sgr_loss."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.options import Options
from ..common.triton_rows import combine, combined, new_losses, row_stride, terms, total_loss
from ..sgr_loss.triton import finish_row, row_options, sgr_loss

_RESIDENT = {torch.float32: 16384, torch.float64: 4096}  # longest row, by dtype of v, that 16 warps keep in registers


@triton.jit
def _residual_kernel(
    v, losses, delta, target, delta_stride, target_stride, n, one: tl.float32,
    scale: tl.float64, floor: tl.float64, floor_pointer, eps: tl.float64,
    NORMALIZE: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss and v of one row that stays in registers: both arguments are read once.

    v (B, n) contiguous, losses (B,), delta, target (B, n); floor_pointer: one float64 number, or None.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < n
    d = tl.load(delta + row * delta_stride + at, mask=inside, other=0.0)
    g = tl.load(target + row * target_stride + at, mask=inside, other=0.0)
    x, y, z = terms(d, g, 1.0, 1.0, not NORMALIZE)
    dd, gg, third = tl.sum(x, 0), tl.sum(y, 0), tl.sum(z, 0)
    if EXACT:
        _, _, z = terms(d, g, tl.sqrt(dd), tl.sqrt(gg), True)
        third = tl.sum(z, 0)
    loss, alpha, beta, _ = finish_row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE, EXACT)
    tl.store(losses + row, loss)
    if not EXACT:
        # The compiler would keep the float64 copies made for the sums, twice the registers there are, and spill. It
        # does not know that this is a multiplication by 1, and converts once more.
        d = d.to(v.dtype.element_ty) * one
        g = g.to(v.dtype.element_ty) * one
    tl.store(v + row * n + at, combine(d, g, alpha, beta, 1.0).to(v.dtype.element_ty), mask=inside)


def sgr_residual(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_residual``: the loss, and (B, n) v = dL/d delta in the dtype of the loss."""
    options, (batch, n) = Options.of(*arguments), delta.shape
    v = delta.new_empty(delta.shape, dtype=loss_dtype(delta))
    if delta.numel() == 0 or n > _RESIDENT[v.dtype]:
        loss, coef = sgr_loss(delta, target, *arguments)
        return loss, combined(v, delta, target, coef[0], coef[1])
    losses = new_losses(delta, batch)
    block = max(triton.next_power_of_2(n), 256)
    with torch.cuda.device_of(delta):
        _residual_kernel[batch,](
            v, losses, delta, target, row_stride(delta), row_stride(target), n, 1.0, *row_options(options, delta),
            NORMALIZE=options.normalize, EXACT=options.normalize and delta.dtype == torch.float64, BLOCK=block,
            num_warps=min(max(block * v.element_size() // 2048, 1), 16),
        )  # fmt: skip
        return total_loss(losses, delta), v
