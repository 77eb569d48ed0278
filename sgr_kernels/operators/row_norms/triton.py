"""row_norms in Triton: one sweep; rows that are split leave partial sums of squares, which a second kernel adds up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.triton_rows import fold, launch_options, row_stride, split_rows

_ROWS = 32  # of partial sums, that one program of _roots_kernel adds up


# --- device -----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["splits"])
def _squares_kernel(
    out, rows, stride, n, splits, chunk, ROOT: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr
):
    """out[row, split] = the sum of squares over one chunk of one row, or its root. out is (B, splits)."""
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    start = (program % splits).to(tl.int64) * chunk
    rows += row * stride
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK // VECTOR], tl.float64)
    whole = n // BLOCK * BLOCK
    for at in range(start, tl.minimum(start + chunk, whole), BLOCK):  # only the end of the row needs a mask
        x = tl.load(rows + at + lanes).to(tl.float64)
        total += fold(x * x, VECTOR)
    if (start + chunk >= n) & (whole < n):
        x = tl.load(rows + whole + lanes, mask=lanes < n - whole, other=0.0).to(tl.float64)
        total += fold(x * x, VECTOR)
    result = tl.sum(total, 0)
    if ROOT:
        result = tl.sqrt(result)
    tl.store(out + program, result)


@triton.jit(do_not_specialize=["batch", "splits"])
def _roots_kernel(norms, partials, batch, splits, ROWS: tl.constexpr, SPLITS: tl.constexpr):
    """norms[row] = the root of the sum of partials[row, :]. partials is (B, splits)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, SPLITS)
    inside = (rows < batch)[:, None] & (lanes < splits)[None, :]
    sums = tl.load(partials + rows[:, None] * splits + lanes[None, :], mask=inside, other=0.0)
    tl.store(norms + rows, tl.sqrt(tl.sum(sums, 1)), mask=rows < batch)


# --- host -------------------------------------------------------------------------------------------------------------


def row_norms(rows: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::row_norms``: (B,) float64."""
    batch, n = rows.shape
    if rows.numel() == 0:
        return rows.new_zeros(batch, dtype=torch.float64)
    splits, chunk = split_rows(batch, n)
    norms = rows.new_empty(batch, dtype=torch.float64)
    partials = norms if splits == 1 else rows.new_empty((batch, splits), dtype=torch.float64)
    with torch.cuda.device_of(rows):
        _squares_kernel[batch * splits,](
            partials, rows, row_stride(rows), n, splits, chunk, ROOT=splits == 1, **launch_options(rows, n)
        )
        if splits > 1:
            padded = triton.next_power_of_2(splits)
            count = max(_ROWS // padded, 1)
            _roots_kernel[triton.cdiv(batch, count),](
                norms, partials, batch, splits, ROWS=count, SPLITS=padded, num_warps=4
            )
    return norms
