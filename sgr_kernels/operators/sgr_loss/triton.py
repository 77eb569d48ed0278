"""sgr_loss and its backward in Triton.

One sweep over the data gives three float64 sums a row (`_partial_sums_kernel`), from which `coefficients_kernel` forms
the loss and, for every row, the factors of both gradients; `combine_kernel` applies them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.options import Options
from ..common.triton_rows import (
    combined,
    fold,
    launch_options,
    new_losses,
    row_stride,
    split_rows,
    terms,
    total_loss,
)

_TILE = 2048  # partial sums that one program of coefficients_kernel holds


@triton.jit
def chunk_sums(
    delta, target, d_norm, g_norm, start, chunk, n, DISTANCE: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr
):
    """Sums of `terms` over the elements start .. start + chunk of a row of n. Only the end of the row needs a mask."""
    lanes = tl.arange(0, BLOCK)
    dd = tl.zeros([BLOCK // VECTOR], tl.float64)
    gg = tl.zeros([BLOCK // VECTOR], tl.float64)
    third = tl.zeros([BLOCK // VECTOR], tl.float64)
    whole = n // BLOCK * BLOCK
    for at in range(start, tl.minimum(start + chunk, whole), BLOCK):
        d = tl.load(delta + at + lanes)
        g = d if target is None else tl.load(target + at + lanes)
        x, y, z = terms(d, g, d_norm, g_norm, DISTANCE)
        dd += fold(x, VECTOR)
        gg += fold(y, VECTOR)
        third += fold(z, VECTOR)
    if (start + chunk >= n) & (whole < n):
        inside = lanes < n - whole
        d = tl.load(delta + whole + lanes, mask=inside, other=0.0)
        g = d if target is None else tl.load(target + whole + lanes, mask=inside, other=0.0)
        x, y, z = terms(d, g, d_norm, g_norm, DISTANCE)
        dd += fold(x, VECTOR)
        gg += fold(y, VECTOR)
        third += fold(z, VECTOR)
    return tl.sum(dd, 0), tl.sum(gg, 0), tl.sum(third, 0)


@triton.jit
def finish_row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE: tl.constexpr, EXACT: tl.constexpr):
    """Loss, alpha, beta, alpha_target and |dL/d delta| of rows whose sums are known.

    third is sum delta target; |delta^ - target^|^2 if EXACT; |delta - target|^2 without NORMALIZE.
    """
    # The interpreter hands on Python numbers, and compares them in float32.
    eps = tl.full([], eps, tl.float64)
    floor = tl.full([], floor, tl.float64) if floor_pointer is None else tl.load(floor_pointer)
    d_norm = tl.sqrt(dd)
    ratio = d_norm / tl.where(floor > 0, floor, 1.0)
    weight = tl.where(ratio >= 1, 1.0, ratio * ratio)  # NaN stays NaN
    weight = scale * tl.where(floor > 0, weight, 1.0)
    if NORMALIZE:
        # Ask for dead, never for live: comparisons with NaN are false, so NaN rows go on and show.
        dead = (d_norm <= eps) | (tl.sqrt(gg) <= eps)
        weight = tl.where(dead, 0.0, weight)
        dd = tl.where(dead, 1.0, dd)
        gg = tl.where(dead, 1.0, gg)
        third = tl.where(dead, 0.0, third)
        ratio = tl.sqrt(gg / dd)
        if EXACT:
            distance = 0.5 * third
            cosine = 1.0 - distance
        else:
            cosine = third / gg * ratio  # exactly 1 for equal rows
            distance = 1.0 - cosine
            distance = tl.where(distance < 0, 0.0, distance)
        distance = tl.where(distance > 2, 2.0, distance)
        # alpha delta and beta target cancel where the two are parallel: taking alpha from beta by the ratio of the
        # norms keeps their rounding errors together.
        beta = -weight / (dd * ratio)
        length = weight / tl.sqrt(dd) * tl.sqrt(distance * (2.0 - distance))
        return weight * distance, -beta * (cosine * ratio), beta, -beta * (cosine / ratio), length
    else:
        return 0.5 * weight * third, weight, -weight, weight, weight * tl.sqrt(third)


@triton.jit(do_not_specialize=["splits"])
def _partial_sums_kernel(
    partials, delta, target, delta_stride, target_stride, n, splits, chunk,
    DISTANCE: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """partials[:, row, split] = the three sums over one chunk of one row. A second sweep, with SPLITS, replaces the
    third by that of (delta / |delta| - target / |target|)^2.

    partials (3, B, splits) float64; delta, target (B, n), or None for a target that is delta.
    """
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    start = (program % splits).to(tl.int64) * chunk
    total = tl.num_programs(0).to(tl.int64)
    d_norm = 1.0
    g_norm = 1.0
    if SPLITS > 0:
        lanes = tl.arange(0, SPLITS)
        sums = partials + row * splits + lanes
        d_norm = tl.sqrt(tl.sum(tl.load(sums, mask=lanes < splits, other=0.0), 0))
        g_norm = tl.sqrt(tl.sum(tl.load(sums + total, mask=lanes < splits, other=0.0), 0))
    if target is not None:
        target += row * target_stride
    delta += row * delta_stride
    dd, gg, third = chunk_sums(delta, target, d_norm, g_norm, start, chunk, n, DISTANCE, BLOCK, VECTOR)
    if SPLITS == 0:
        tl.store(partials + program, dd)
        tl.store(partials + total + program, gg)
    tl.store(partials + 2 * total + program, third)


@triton.jit(do_not_specialize=["batch", "splits"])
def coefficients_kernel(
    losses, coef, partials, batch, splits,
    scale: tl.float64, floor: tl.float64, floor_pointer, eps: tl.float64,
    NORMALIZE: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Sums up the splits of ROWS rows; writes their columns of coef, and the sum of their losses.

    losses (programs,), coef (4, B), partials (3, B, splits): float64; floor_pointer: one float64 number, or None.
    """
    program = tl.program_id(0)
    batch = batch.to(tl.int64)
    rows = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lanes = tl.arange(0, SPLITS)
    at = rows[:, None] * splits + lanes[None, :]
    inside = (rows < batch)[:, None] & (lanes < splits)[None, :]
    total = batch * splits
    dd = tl.sum(tl.load(partials + at, mask=inside, other=0.0), 1)
    gg = tl.sum(tl.load(partials + total + at, mask=inside, other=0.0), 1)
    third = tl.sum(tl.load(partials + 2 * total + at, mask=inside, other=0.0), 1)
    loss, alpha, beta, alpha_target, length = finish_row(
        dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE, EXACT
    )
    tl.store(coef + rows, alpha, mask=rows < batch)
    tl.store(coef + batch + rows, beta, mask=rows < batch)
    tl.store(coef + 2 * batch + rows, alpha_target, mask=rows < batch)
    tl.store(coef + 3 * batch + rows, length, mask=rows < batch)
    tl.store(losses + program, tl.sum(tl.where(rows < batch, loss, 0.0), 0))


def sgr_loss(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_loss``: the loss, and (4, B) float64, see `finish_row`."""
    options = Options.of(*arguments)
    if delta.numel() == 0:
        return delta.new_zeros((), dtype=loss_dtype(delta)), delta.new_zeros((4, len(delta)), dtype=torch.float64)
    exact = options.normalize and delta.dtype == torch.float64
    with torch.cuda.device_of(delta):
        partials = partial_sums(delta, target, not options.normalize)
        if exact:
            partial_sums(delta, target, True, partials)
        return finish_rows(partials, delta, options, exact)


def partial_sums(
    delta: Tensor, target: Tensor | None, distance: bool = False, partials: Tensor | None = None
) -> Tensor:
    """(3, B, splits) float64, see `_partial_sums_kernel`: those of a first sweep, or of a second one over ``partials``;
    on the device that is current.
    """
    batch, n = delta.shape
    splits, chunk = split_rows(batch, n)
    padded = 0 if partials is None else triton.next_power_of_2(splits)
    partials = delta.new_empty((3, batch, splits), dtype=torch.float64) if partials is None else partials
    _partial_sums_kernel[batch * splits,](
        partials, delta, target, row_stride(delta), 0 if target is None else row_stride(target), n, splits, chunk,
        DISTANCE=distance, SPLITS=padded, **launch_options(delta, n),
    )  # fmt: skip
    return partials


def finish_rows(partials: Tensor, delta: Tensor, options: Options, exact: bool) -> tuple[Tensor, Tensor]:
    """Results of sgr_loss from the partial sums (3, B, splits) of the rows; on the device that is current."""
    batch, splits = partials.shape[1:]
    padded = triton.next_power_of_2(splits)
    rows_a_program = max(min(_TILE // padded, triton.next_power_of_2(batch)), 1)
    losses = new_losses(delta, triton.cdiv(batch, rows_a_program))
    coef = delta.new_empty((4, batch), dtype=torch.float64)
    coefficients_kernel[losses.shape](
        losses, coef, partials, batch, splits, *row_options(options, delta),
        NORMALIZE=options.normalize, EXACT=exact, ROWS=rows_a_program, SPLITS=padded, num_warps=16,
    )  # fmt: skip
    return total_loss(losses, delta), coef


def sgr_loss_backward(grad_loss: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::sgr_loss_backward``: (B, n) gradient in the dtype of ``delta``."""
    return combined(delta.new_empty(delta.shape), delta, target, alpha, beta, factor=grad_loss)


def row_options(options: Options, delta: Tensor) -> tuple[float, float, Tensor | None, float]:
    """scale, floor, floor_pointer and eps of `finish_row`; the loss is scale sum_b w_b (1 - c_b)."""
    _, index, floor, floor_tensor, eps = options.arguments(delta)
    return 2.0 / (delta.numel(), len(delta), 1)[index], floor, floor_tensor, eps
