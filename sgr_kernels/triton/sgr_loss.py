"""sgr_loss, its backward and sgr_residual in Triton.

Rows are samples. One sweep over the data gives three float64 sums a row (`_partial_sums_kernel`), from which
`_coefficients_kernel` forms the loss and, for every row, the factors of both gradients; `_combine_kernel` applies them.
Long rows are split over several programs by a rule that knows nothing but the shape, and every sum has one fixed order,
so results are reproducible. Rows that fit into the registers of one program are read once: `_residual_kernel`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048  # elements of a row per step of a program
_MIN_CHUNK = 2 * _BLOCK  # shorter pieces of a row are not worth a program
_PROGRAMS = 2048  # a few waves on the largest GPU; asking the device would make results depend on it
_TILE = 2048  # partial sums that one program of _coefficients_kernel holds
_RESIDENT = {torch.float32: 16384, torch.float64: 4096}  # longest row, by dtype of v, that 16 warps keep in registers


# --- device -----------------------------------------------------------------------------------------------------------


@triton.jit
def _terms(delta, target, d_norm, g_norm, DISTANCE: tl.constexpr):
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
def _fold(x, VECTOR: tl.constexpr):
    """Add up the neighbours that one thread has loaded with one instruction: few accumulators, few registers."""
    return tl.sum(tl.reshape(x, [x.shape[0] // VECTOR, VECTOR], can_reorder=True), 1)


@triton.jit
def _chunk_sums(
    delta, target, d_norm, g_norm, start, chunk, n, DISTANCE: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr
):
    """Sums of `_terms` over the elements start .. start + chunk of a row of n. Only the end of the row needs a mask."""
    lanes = tl.arange(0, BLOCK)
    dd = tl.zeros([BLOCK // VECTOR], tl.float64)
    gg = tl.zeros([BLOCK // VECTOR], tl.float64)
    third = tl.zeros([BLOCK // VECTOR], tl.float64)
    whole = n // BLOCK * BLOCK
    for at in range(start, tl.minimum(start + chunk, whole), BLOCK):
        x, y, z = _terms(tl.load(delta + at + lanes), tl.load(target + at + lanes), d_norm, g_norm, DISTANCE)
        dd += _fold(x, VECTOR)
        gg += _fold(y, VECTOR)
        third += _fold(z, VECTOR)
    if (start + chunk >= n) & (whole < n):
        inside = lanes < n - whole
        d = tl.load(delta + whole + lanes, mask=inside, other=0.0)
        g = tl.load(target + whole + lanes, mask=inside, other=0.0)
        x, y, z = _terms(d, g, d_norm, g_norm, DISTANCE)
        dd += _fold(x, VECTOR)
        gg += _fold(y, VECTOR)
        third += _fold(z, VECTOR)
    return tl.sum(dd, 0), tl.sum(gg, 0), tl.sum(third, 0)


@triton.jit
def _row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE: tl.constexpr, EXACT: tl.constexpr):
    """Loss, alpha, beta and alpha_target of rows whose sums are known.

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
        # alpha delta and beta target cancel where the two are parallel: taking alpha from beta by the ratio of the
        # norms keeps their rounding errors together.
        beta = -weight / (dd * ratio)
        return weight * distance, -beta * (cosine * ratio), beta, -beta * (cosine / ratio)
    else:
        return 0.5 * weight * third, weight, -weight, weight


@triton.jit
def _combine(delta, target, alpha, beta, factor):
    """factor (alpha delta + beta target) in float64; 0 for a row without a gradient, whatever it holds."""
    nothing = (alpha == 0) & (beta == 0)
    value = factor * alpha * delta.to(tl.float64) + factor * beta * target.to(tl.float64)
    return tl.where(nothing, 0.0, value)


@triton.jit(do_not_specialize=["splits"])
def _partial_sums_kernel(
    partials, delta, target, delta_stride, target_stride, n, splits, chunk,
    DISTANCE: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """First sweep: partials[:, row, split] = the three sums over one chunk of one row. partials is (3, B, splits)."""
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    start = (program % splits).to(tl.int64) * chunk
    dd, gg, third = _chunk_sums(
        delta + row * delta_stride, target + row * target_stride, 1.0, 1.0, start, chunk, n, DISTANCE, BLOCK, VECTOR
    )
    total = tl.num_programs(0).to(tl.int64)
    tl.store(partials + program, dd)
    tl.store(partials + total + program, gg)
    tl.store(partials + 2 * total + program, third)


@triton.jit(do_not_specialize=["splits"])
def _partial_distances_kernel(
    partials, delta, target, delta_stride, target_stride, n, splits, chunk,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Second sweep: replaces the third sum by that of (delta / |delta| - target / |target|)^2."""
    program = tl.program_id(0)
    row = (program // splits).to(tl.int64)
    start = (program % splits).to(tl.int64) * chunk
    total = tl.num_programs(0).to(tl.int64)
    lanes = tl.arange(0, SPLITS)
    sums = partials + row * splits + lanes
    d_norm = tl.sqrt(tl.sum(tl.load(sums, mask=lanes < splits, other=0.0), 0))
    g_norm = tl.sqrt(tl.sum(tl.load(sums + total, mask=lanes < splits, other=0.0), 0))
    _, _, distance = _chunk_sums(
        delta + row * delta_stride, target + row * target_stride, d_norm, g_norm, start, chunk, n, True, BLOCK, VECTOR
    )
    tl.store(partials + 2 * total + program, distance)


@triton.jit(do_not_specialize=["batch", "splits"])
def _coefficients_kernel(
    losses, coef, partials, batch, splits,
    scale: tl.float64, floor: tl.float64, floor_pointer, eps: tl.float64,
    NORMALIZE: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Sums up the splits of ROWS rows; writes their columns of coef (3, B) and the sum of their losses."""
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
    loss, alpha, beta, alpha_target = _row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE, EXACT)
    tl.store(coef + rows, alpha, mask=rows < batch)
    tl.store(coef + batch + rows, beta, mask=rows < batch)
    tl.store(coef + 2 * batch + rows, alpha_target, mask=rows < batch)
    tl.store(losses + program, tl.sum(tl.where(rows < batch, loss, 0.0), 0))


@triton.jit(do_not_specialize=["count"])
def _total_kernel(loss, losses, count, BLOCK: tl.constexpr):
    """The sum of `count` losses, by one program, in one order."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(0, count, BLOCK):
        total += tl.load(losses + at + lanes, mask=at + lanes < count, other=0.0)
    tl.store(loss, tl.sum(total, 0))


@triton.jit(do_not_specialize=["blocks"])
def _combine_kernel(
    out, grad_loss, delta, target, alpha, beta, delta_stride, target_stride, n, blocks, BLOCK: tl.constexpr
):
    """out = grad_loss (alpha_b delta_b + beta_b target_b), one block of one row a program. No grad_loss means 1."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    at = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    d = tl.load(delta + row * delta_stride + at, mask=inside)
    g = tl.load(target + row * target_stride + at, mask=inside)
    factor = 1.0
    if grad_loss is not None:
        factor = tl.load(grad_loss).to(tl.float64)
    value = _combine(d, g, tl.load(alpha + row), tl.load(beta + row), factor)
    if out.dtype.element_ty.primitive_bitwidth < 64:
        value = value.to(tl.float32)  # Triton has no direct way from float64 to bfloat16
    tl.store(out + row * n + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _residual_kernel(
    v, losses, delta, target, delta_stride, target_stride, n, one: tl.float32,
    scale: tl.float64, floor: tl.float64, floor_pointer, eps: tl.float64,
    NORMALIZE: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss and v of one row that stays in registers: both arguments are read once."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < n
    d = tl.load(delta + row * delta_stride + at, mask=inside, other=0.0)
    g = tl.load(target + row * target_stride + at, mask=inside, other=0.0)
    x, y, z = _terms(d, g, 1.0, 1.0, not NORMALIZE)
    dd, gg, third = tl.sum(x, 0), tl.sum(y, 0), tl.sum(z, 0)
    if EXACT:
        _, _, z = _terms(d, g, tl.sqrt(dd), tl.sqrt(gg), True)
        third = tl.sum(z, 0)
    loss, alpha, beta, _ = _row(dd, gg, third, scale, floor, floor_pointer, eps, NORMALIZE, EXACT)
    tl.store(losses + row, loss)
    if not EXACT:
        # The compiler would keep the float64 copies made for the sums, twice the registers there are, and spill. It
        # does not know that this is a multiplication by 1, and converts once more.
        d = d.to(v.dtype.element_ty) * one
        g = g.to(v.dtype.element_ty) * one
    tl.store(v + row * n + at, _combine(d, g, alpha, beta, 1.0).to(v.dtype.element_ty), mask=inside)


# --- host -------------------------------------------------------------------------------------------------------------


def sgr_loss(
    delta: Tensor,
    target: Tensor,
    normalize: bool,
    reduction: int,
    floor: float,
    floor_tensor: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_loss``: the loss, and (3, B) float64 alpha, beta and alpha_target."""
    batch, n = delta.shape
    if delta.numel() == 0:
        return delta.new_zeros((), dtype=_loss_dtype(delta)), delta.new_zeros((3, batch), dtype=torch.float64)
    exact = normalize and delta.dtype == torch.float64
    splits, chunk = _split(batch, n)
    padded_splits = triton.next_power_of_2(splits)
    rows_a_program = min(_TILE // padded_splits, triton.next_power_of_2(batch))
    losses = _new_losses(delta, triton.cdiv(batch, rows_a_program))
    coef = delta.new_empty((3, batch), dtype=torch.float64)
    partials = delta.new_empty((3, batch, splits), dtype=torch.float64)
    rows = (delta, target, _row_stride(delta), _row_stride(target), n)
    launch = _launch_options(delta, n)
    with torch.cuda.device_of(delta):
        _partial_sums_kernel[batch * splits,](partials, *rows, splits, chunk, DISTANCE=not normalize, **launch)
        if exact:
            _partial_distances_kernel[batch * splits,](partials, *rows, splits, chunk, SPLITS=padded_splits, **launch)
        _coefficients_kernel[losses.shape](
            losses, coef, partials, batch, splits, _scale(delta, reduction), floor, floor_tensor, eps,
            NORMALIZE=normalize, EXACT=exact, ROWS=rows_a_program, SPLITS=padded_splits, num_warps=8,
        )  # fmt: skip
        return _total(losses, delta), coef


def sgr_loss_backward(grad_loss: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::sgr_loss_backward``: (B, n) gradient in the dtype of ``delta``."""
    return _combined(delta.new_empty(delta.shape), grad_loss, delta, target, alpha.contiguous(), beta.contiguous())


def sgr_residual(
    delta: Tensor,
    target: Tensor,
    normalize: bool,
    reduction: int,
    floor: float,
    floor_tensor: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::sgr_residual``: the loss, and (B, n) v = dL/d delta in the dtype of the loss."""
    batch, n = delta.shape
    v = delta.new_empty(delta.shape, dtype=_loss_dtype(delta))
    if delta.numel() == 0 or n > _RESIDENT[v.dtype]:
        loss, coef = sgr_loss(delta, target, normalize, reduction, floor, floor_tensor, eps)
        return loss, _combined(v, None, delta, target, coef[0], coef[1])
    losses = _new_losses(delta, batch)
    block = max(triton.next_power_of_2(n), 256)
    with torch.cuda.device_of(delta):
        _residual_kernel[batch,](
            v, losses, delta, target, _row_stride(delta), _row_stride(target), n, 1.0,
            _scale(delta, reduction), floor, floor_tensor, eps,
            NORMALIZE=normalize, EXACT=normalize and delta.dtype == torch.float64, BLOCK=block,
            num_warps=min(max(block * v.element_size() // 2048, 1), 16),
        )  # fmt: skip
        return _total(losses, delta), v


def _combined(out: Tensor, grad_loss: Tensor | None, delta: Tensor, target: Tensor, *factors: Tensor) -> Tensor:
    if out.numel() == 0:
        return out
    batch, n = delta.shape
    block = _block(n)
    blocks = triton.cdiv(n, block)
    with torch.cuda.device_of(delta):
        _combine_kernel[batch * blocks,](
            out, grad_loss, delta, target, *factors, _row_stride(delta), _row_stride(target), n, blocks,
            BLOCK=block, num_warps=block // 256,
        )  # fmt: skip
    return out


def _new_losses(delta: Tensor, count: int) -> Tensor:
    """Space for partial losses; a single one is the result."""
    return delta.new_empty(count, dtype=_loss_dtype(delta) if count == 1 else torch.float64)


def _total(losses: Tensor, delta: Tensor) -> Tensor:
    if len(losses) == 1:
        return losses[0]
    loss = delta.new_empty((), dtype=_loss_dtype(delta))
    _total_kernel[1,](loss, losses, len(losses), BLOCK=2048, num_warps=8)
    return loss


def _split(batch: int, n: int) -> tuple[int, int]:
    """Into how many pieces a row is split, and of how many elements (a multiple of the block)."""
    wanted = triton.cdiv(_PROGRAMS, batch)
    chunk = max(triton.cdiv(triton.cdiv(n, wanted), _BLOCK) * _BLOCK, _MIN_CHUNK)
    return triton.cdiv(n, chunk), chunk


def _block(n: int) -> int:
    return min(max(triton.next_power_of_2(n), 256), _BLOCK)


def _launch_options(delta: Tensor, n: int) -> dict[str, int]:
    """Eight elements a thread, in 16-byte loads."""
    block = _block(n)
    return {"BLOCK": block, "VECTOR": 16 // delta.element_size(), "num_warps": block // 256}


def _row_stride(rows: Tensor) -> int:
    # A single row has no stride that matters; 0 is divisible by 16, which lets the compiler load 16 bytes at a time.
    return rows.stride(0) if len(rows) > 1 else 0


def _scale(delta: Tensor, reduction: int) -> float:
    """s of the loss s sum_b w_b (1 - c_b), for reduction mean, batchmean or sum."""
    return 2.0 / (delta.numel(), len(delta), 1)[reduction]


def _loss_dtype(delta: Tensor) -> torch.dtype:
    return torch.float64 if delta.dtype == torch.float64 else torch.float32
