"""sgr_residual in Triton. Rows that fit into the registers of one program are read once; longer ones from memory once,
and once more from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.options import Options
from ..common.triton_rows import combine, combined, launch_options, new_losses, row_stride, terms, total_loss
from ..sgr_loss.triton import chunk_sums, finish_row, row_options, sgr_loss

_RESIDENT = {torch.float32: 16384, torch.float64: 4096}  # longest row, by dtype of v, that 16 warps keep in registers
_CHUNK = 1 << 14  # bytes of each input for a program of a long row
# Bytes of both inputs between the first sweep over a row and the second. Less than what is summed at the same time, and
# second sweeps wait for first ones: on the largest GPU half of 660 programs, two chunks each, 11 MB. As much, and half
# of it again for v, must stay in its L2 cache, of which each half of the chip has 25 MB.
_AHEAD = 12 << 20


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
    loss, alpha, beta, _, _ = finish_row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE, EXACT)
    tl.store(losses + row, loss)
    if not EXACT:
        # The compiler would keep the float64 copies made for the sums, twice the registers there are, and spill. It
        # does not know that this is a multiplication by 1, and converts once more.
        d = d.to(v.dtype.element_ty) * one
        g = g.to(v.dtype.element_ty) * one
    tl.store(v + row * n + at, combine(d, g, alpha, beta, 1.0).to(v.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch", "splits", "ahead"])
def _long_residual_kernel(
    v, losses, coef, partials, tickets, delta, target, delta_stride, target_stride, n, batch, splits, ahead,
    scale: tl.float64, floor: tl.float64, floor_pointer, eps: tl.float64,
    NORMALIZE: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """One chunk of one row a program: first its sums, and by another program, when those of the row are there, its v.

    Programs start in order. First come the sums of `ahead` rows, then by turns the sums of a row and the v of the one
    that is `ahead` rows before it. So a program waits for none but those that have started before it, and what it
    reads is still in the L2 cache.

    v (B, n) contiguous, losses (B,), coef (2, B), partials (3, B, splits), tickets (2, B) of zeros, delta, target
    (B, n); floor_pointer: one float64 number, or None.
    """
    step = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    turn = step - ahead
    by_turns = (turn >= 0) & (turn < 2 * (batch - ahead))
    summing = (turn < 0) | (by_turns & (turn % 2 == 0))
    row = tl.where(turn < 0, step, step - batch)
    row = tl.where(by_turns, turn // 2 + tl.where(summing, ahead, 0), row).to(tl.int64)
    coef += row
    delta += row * delta_stride
    target += row * target_stride
    ticket = tickets + row
    done = ticket + batch
    start = split.to(tl.int64) * CHUNK
    lanes = tl.arange(0, BLOCK)
    if summing:
        dd, gg, third = chunk_sums(delta, target, 1.0, 1.0, start, CHUNK, n, not NORMALIZE, BLOCK, VECTOR)
        total = batch.to(tl.int64) * splits
        sums = partials + row * splits
        tl.store(sums + split, dd)
        tl.store(sums + total + split, gg)
        tl.store(sums + 2 * total + split, third)
        tl.debug_barrier()  # one thread takes the ticket for all
        if tl.atomic_add(ticket, 1, sem="acq_rel") == splits - 1:
            few: tl.constexpr = BLOCK // 8  # one for each thread
            x = tl.zeros([few], tl.float64)
            y = tl.zeros([few], tl.float64)
            z = tl.zeros([few], tl.float64)
            for first in range(0, splits, few):
                at = first + tl.arange(0, few)
                inside = at < splits
                x += tl.load(sums + at, mask=inside, other=0.0, cache_modifier=".cg")
                y += tl.load(sums + total + at, mask=inside, other=0.0, cache_modifier=".cg")
                z += tl.load(sums + 2 * total + at, mask=inside, other=0.0, cache_modifier=".cg")
            loss, alpha, beta, _, _ = finish_row(
                tl.sum(x, 0), tl.sum(y, 0), tl.sum(z, 0), scale, floor, floor_pointer, eps, NORMALIZE, False
            )
            tl.store(losses + row, loss)
            tl.store(coef, alpha)
            tl.store(coef + batch, beta)
            tl.debug_barrier()
            tl.atomic_xchg(done, 1, sem="release")
    else:
        while tl.atomic_add(done, 0, sem="acquire") == 0:
            pass
        alpha = tl.load(coef, cache_modifier=".cg")
        beta = tl.load(coef + batch, cache_modifier=".cg")
        v += row * n
        for at in range(start, tl.minimum(start + CHUNK, n), BLOCK):
            inside = at + lanes < n
            d = tl.load(delta + at + lanes, mask=inside, eviction_policy="evict_first")
            g = tl.load(target + at + lanes, mask=inside, eviction_policy="evict_first")
            value = combine(d, g, alpha, beta, 1.0).to(v.dtype.element_ty)
            tl.store(v + at + lanes, value, mask=inside, eviction_policy="evict_first")


def sgr_residual(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_residual``: the loss, and (B, n) v = dL/d delta in the dtype of the loss."""
    options, n = Options.of(*arguments), delta.shape[1]
    v = delta.new_empty(delta.shape, dtype=loss_dtype(delta))
    exact = options.normalize and delta.dtype == torch.float64
    long = n > _RESIDENT[v.dtype]
    if delta.numel() == 0 or (exact and long):
        loss, coef = sgr_loss(delta, target, *arguments)
        return loss, combined(v, delta, target, coef[0], coef[1])
    losses = new_losses(delta, len(delta))
    with torch.cuda.device_of(delta):
        if long:
            _long_residual(v, losses, delta, target, options)
        else:
            _short_residual(v, losses, delta, target, options, exact)
        return total_loss(losses, delta), v


def _short_residual(v: Tensor, losses: Tensor, delta: Tensor, target: Tensor, options: Options, exact: bool) -> None:
    batch, n = delta.shape
    block = max(triton.next_power_of_2(n), 256)
    _residual_kernel[batch,](
        v, losses, delta, target, row_stride(delta), row_stride(target), n, 1.0, *row_options(options, delta),
        NORMALIZE=options.normalize, EXACT=exact, BLOCK=block,
        num_warps=min(max(block * v.element_size() // 2048, 1), 16),
    )  # fmt: skip


def _long_residual(v: Tensor, losses: Tensor, delta: Tensor, target: Tensor, options: Options) -> None:
    batch, n = delta.shape
    chunk = _CHUNK // delta.element_size()
    splits = triton.cdiv(n, chunk)
    ahead = min(triton.cdiv(_AHEAD, 2 * n * delta.element_size()), batch)
    coef = delta.new_empty((2, batch), dtype=torch.float64)
    partials = delta.new_empty((3, batch, splits), dtype=torch.float64)
    tickets = delta.new_zeros((2, batch), dtype=torch.int32)
    _long_residual_kernel[2 * batch * splits,](
        v, losses, coef, partials, tickets, delta, target, row_stride(delta), row_stride(target), n, batch, splits,
        ahead, *row_options(options, delta), NORMALIZE=options.normalize, CHUNK=chunk, **launch_options(delta, n),
    )  # fmt: skip
