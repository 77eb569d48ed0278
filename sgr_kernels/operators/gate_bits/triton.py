"""The gates of a ReLU in Triton: recorded one bit an element, and replayed.

A tile has eight elements a row, so that a row's gates make a byte. Each program reads what is its own before it writes
it: in place is the same kernel with y = x.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BYTES = 256  # of gates a program; their elements give every thread two wide loads and more
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _widen(x):
    """Halves to float32, in which they are multiplied; also, older GPUs cannot compare bfloat16."""
    if x.dtype == tl.bfloat16:  # by its bits: a conversion by the interpreter loses what is subnormal
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif x.dtype == tl.float16:
        x = x.to(tl.float32)
    return x


@triton.jit
def _narrow(x, dtype: tl.constexpr):
    """Back to the dtype, rounded to the nearest."""
    if _INTERPRETED and dtype == tl.bfloat16:  # the interpreter cuts off instead
        bits = x.to(tl.uint32, bitcast=True)
        bits = tl.where(x == x, bits + 0x7FFF + (bits >> 16 & 1), bits)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def _relu(x, closed, slope):
    """x, or slope * x where closed; with slope 0 neither NaN nor a sign gets through."""
    slope = tl.full([], slope, tl.float64)  # the interpreter hands on a Python number
    wide = _widen(x)
    scaled = tl.where(slope == 0, 0.0, wide * slope.to(wide.dtype))
    return tl.where(closed, _narrow(scaled, x.dtype), x)


@triton.jit
def _elements(byte):
    """Which elements have their gates in a byte."""
    return byte[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit
def _record_kernel(y, bits, x, n, slope: tl.float64, BYTES: tl.constexpr):
    """y = leaky ReLU of x, and its gates; y, x (n,), bits (n / 8,). Ask for closed, never for open: NaN is open."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = _elements(byte)
    value = tl.load(x + at, mask=at < n, other=0.0)  # closed beyond n
    closed = _widen(value) <= 0
    tl.store(y + at, _relu(value, closed, slope), mask=at < n)
    gates = tl.sum(tl.where(closed, 0, 1 << tl.arange(0, 8)[None, :]), 1)
    tl.store(bits + byte, gates.to(tl.uint8), mask=byte * 8 < n)


@triton.jit
def _replay_kernel(y, bits, x, n, slope: tl.float64, BYTES: tl.constexpr):
    """y = x, or slope * x where the gate is closed; y, x (n,), bits (n / 8,)."""
    byte = tl.program_id(0).to(tl.int64) * BYTES + tl.arange(0, BYTES)
    at = _elements(byte)
    gates = tl.load(bits + byte, mask=byte * 8 < n, other=0).to(tl.int32)
    closed = (gates[:, None] >> tl.arange(0, 8)[None, :] & 1) == 0
    value = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(y + at, _relu(value, closed, slope), mask=at < n)


def record_relu(x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_triton::record_relu``: leaky ReLU of x, and its gates."""
    y, bits = torch.empty_like(x), _new_bits(x)
    _launch(_record_kernel, y, bits, x, slope)
    return y, bits


def record_relu_(x: Tensor, slope: float) -> Tensor:
    """Implementation of ``sgr_triton::record_relu_``: the gates of x, which becomes its leaky ReLU."""
    bits = _new_bits(x)
    _launch(_record_kernel, x, bits, x, slope)
    return bits


def replay_relu(x: Tensor, bits: Tensor, slope: float) -> Tensor:
    """Implementation of ``sgr_triton::replay_relu``: x through recorded gates."""
    y = torch.empty_like(x)
    _launch(_replay_kernel, y, bits, x, slope)
    return y


def replay_relu_(x: Tensor, bits: Tensor, slope: float) -> None:
    """Implementation of ``sgr_triton::replay_relu_``: the same in place."""
    _launch(_replay_kernel, x, bits, x, slope)


def _new_bits(x: Tensor) -> Tensor:
    return x.new_empty(triton.cdiv(x.numel(), 8), dtype=torch.uint8)


def _launch(kernel, y: Tensor, bits: Tensor, x: Tensor, slope: float) -> None:
    if x.numel() == 0:
        return
    with torch.cuda.device_of(x):
        kernel[triton.cdiv(bits.numel(), _BYTES),](y, bits, x, x.numel(), slope, BYTES=_BYTES, num_warps=4)
