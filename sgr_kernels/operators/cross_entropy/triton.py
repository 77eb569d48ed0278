"""Cross entropy, its gradient and its Hessian in Triton, without cancellation.

One program a row. A first sweep over the classes finds the largest logit but that of the label, and sums exp(z - it)
over all classes but the label; a second one writes. The sums, and all that is computed once a row, are float64: then
neither 1 - p of a confident sample nor that of a confidently wrong one loses its digits.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.triton_rows import new_losses, row_stride, total_loss

_BLOCK = 4096  # classes per step of a program


@triton.jit
def _difference(a, b):
    """a - b, and what its rounding has lost."""
    difference = a - b
    back = difference - a
    return difference, (a - (difference - back)) - (b + back)


@triton.jit
def _exp(a, b):
    """exp(a - b) for a <= b; 0 for a = -inf.

    exp magnifies the relative error of a - b by |a - b|; in float32, so does the usual exp2(log2(e) x). Hence what the
    difference lost is added to what is left of it after a multiple of log 2, where nothing is magnified.
    """
    difference, lost = _difference(a, b)
    vanishes = difference < -800  # NaN goes on
    lost = tl.where(vanishes, 0.0, lost)
    difference = tl.where(vanishes, -800.0, difference)
    if difference.dtype == tl.float64:
        return tl.exp(difference) * (1.0 + lost)
    whole = tl.floor(difference * 1.44269504 + 0.5)
    rest = difference - whole * 0.693359375  # log 2 in nine bits: the product, and so the difference, is exact
    rest = rest + (whole * 2.12194440e-4 + lost)
    return tl.exp2(rest * 1.44269504) * tl.exp2(whole)


@triton.jit
def _finite(largest):
    """To subtract from -inf, where all other classes are masked."""
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def _load_others(logits, k, label, classes):
    """Logits in float32 (float64 for float64), with -inf in the place of the label's."""
    z = tl.load(logits + k, mask=k < classes, other=float("-inf"))
    if z.dtype.primitive_bitwidth < 32:
        z = z.to(tl.float32)
    return tl.where(k == label, float("-inf"), z)  # as a mask of the load it would break up wide loads


@triton.jit
def _load_tangents(tangent, k, at_label, classes):
    """T_k - T_label in float64."""
    return tl.load(tangent + k, mask=k < classes, other=0.0).to(tl.float64) - at_label


@triton.jit
def _load_at_label(values, label, classes):
    """values[label] in float64; NaN for a label that is none, as a kernel cannot raise."""
    known = (label >= 0) & (label < classes)
    value = tl.load(values + label, mask=known, other=0.0).to(tl.float64)
    return tl.where(known, value, float("nan"))


@triton.jit
def _sweep(logits, tangent, tangent_at_label, label, classes, BLOCK: tl.constexpr):
    """Of all classes but the label: the largest logit z', sum exp(z_k - z'), and sum exp(z_k - z') (T_k - T_label)."""
    lanes = tl.arange(0, BLOCK)
    largest = tl.full([], float("-inf"), tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32)
    total = tl.full([], 0.0, tl.float64)
    moment = tl.full([], 0.0, tl.float64)
    for at in range(0, classes, BLOCK):
        z = _load_others(logits, at + lanes, label, classes)
        before = largest
        largest = tl.maximum(before, tl.max(z, 0))
        # Asking for equal first spares -inf - -inf.
        kept = tl.where(before == largest, 1.0, tl.exp(before.to(tl.float64) - largest.to(tl.float64)))
        terms = _exp(z, _finite(largest)).to(tl.float64)
        total = total * kept + tl.sum(terms, 0)
        if tangent is not None:
            moments = terms * _load_tangents(tangent, at + lanes, tangent_at_label, classes)
            moment = moment * kept + tl.sum(moments, 0)
    return largest, total, moment


@triton.jit
def _normalise(at_label, largest, total):
    """Loss; the factor that makes p_k of exp(z_k - z'); p of the label. All in float64."""
    at_label = tl.where(at_label == float("inf"), float("nan"), at_label)  # overflow shows, as it does in torch
    margin, lost = _difference(largest.to(tl.float64), at_label)
    lost = tl.where(tl.abs(margin) < float("inf"), lost, 0.0)
    behind = margin > 0
    ratio = tl.exp(-tl.abs(margin)) * (1.0 + tl.where(behind, -lost, lost))
    odds = ratio * total
    sum_ahead = 1.0 + odds
    none = sum_ahead == 1
    log1p = tl.where(none, odds, tl.log(sum_ahead) * (odds / tl.where(none, 1.0, sum_ahead - 1.0)))
    sum_behind = ratio + total
    loss = tl.where(behind, margin + tl.log(tl.where(behind, sum_behind, 1.0)), log1p)
    denominator = tl.where(behind, sum_behind, sum_ahead)
    return loss, tl.where(behind, 1.0, ratio) / denominator, tl.where(behind, ratio, 1.0) / denominator


@triton.jit
def _cross_entropy_kernel(
    losses, gradient, logits, labels, logits_stride, classes, scale: tl.float64, BLOCK: tl.constexpr
):
    """losses[row] and gradient[row, :], both times scale.

    losses (B,), gradient (B, classes) contiguous, logits (B, classes), labels (B,).
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_stride
    gradient += row * classes
    label = tl.load(labels + row)
    scale = tl.full([], scale, tl.float64)  # the interpreter hands on a Python number
    largest, total, _ = _sweep(logits, None, None, label, classes, BLOCK)
    loss, share, _ = _normalise(_load_at_label(logits, label, classes), largest, total)
    tl.store(losses + row, scale * loss)
    share *= scale
    dtype = gradient.dtype.element_ty
    at_label = (-total * share).to(dtype)
    for at in range(0, classes, BLOCK):
        k = at + tl.arange(0, BLOCK)
        value = _exp(_load_others(logits, k, label, classes), _finite(largest)) * share.to(dtype)
        tl.store(gradient + k, tl.where(k == label, at_label, value), mask=k < classes)


@triton.jit
def _hvp_kernel(
    out, logits, labels, tangent, logits_stride, tangent_stride, classes, scale: tl.float64, BLOCK: tl.constexpr
):
    """out[row, :] = scale times the Hessian of the loss of a row, times its tangent.

    out (B, classes) contiguous, logits, tangent (B, classes), labels (B,).
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_stride
    tangent += row * tangent_stride
    out += row * classes
    label = tl.load(labels + row)
    scale = tl.full([], scale, tl.float64)
    at_label = _load_at_label(tangent, label, classes)
    largest, total, moment = _sweep(logits, tangent, at_label, label, classes, BLOCK)
    _, share, p_label = _normalise(_load_at_label(logits, label, classes), largest, total)
    mean = moment * share
    dtype = out.dtype.element_ty
    for at in range(0, classes, BLOCK):
        k = at + tl.arange(0, BLOCK)
        terms = _exp(_load_others(logits, k, label, classes), _finite(largest)).to(tl.float64)
        # Where another class has nearly all of p, this difference nearly cancels.
        value = terms * ((scale * share) * (_load_tangents(tangent, k, at_label, classes) - mean))
        value = tl.where(k == label, -scale * p_label * mean, value)
        tl.store(out + k, value.to(dtype), mask=k < classes)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::cross_entropy``: the mean loss in nats, and (B, K) its gradient."""
    batch, classes = logits.shape
    gradient = logits.new_empty(logits.shape, dtype=loss_dtype(logits))
    if batch == 0:
        return logits.new_full((), math.nan, dtype=gradient.dtype), gradient
    losses = new_losses(logits, batch)
    with torch.cuda.device_of(logits):
        _cross_entropy_kernel[batch,](
            losses, gradient, logits, labels.contiguous(), row_stride(logits), classes, 1 / batch, **_options(classes)
        )
        return total_loss(losses, logits), gradient


def cross_entropy_hvp(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::cross_entropy_hvp``: (B, K), the Hessian of that loss times ``tangent``."""
    batch, classes = logits.shape
    out = logits.new_empty(logits.shape, dtype=loss_dtype(logits))
    if out.numel() == 0:
        return out
    if tangent.stride(1) != 1:
        tangent = tangent.contiguous()
    with torch.cuda.device_of(logits):
        _hvp_kernel[batch,](
            out, logits, labels.contiguous(), tangent, row_stride(logits), row_stride(tangent), classes, 1 / batch,
            **_options(classes),
        )  # fmt: skip
    return out


def _options(classes: int) -> dict[str, int]:
    block = min(max(triton.next_power_of_2(classes), 128), _BLOCK)
    return {"BLOCK": block, "num_warps": min(max(block // 128, 1), 16)}
