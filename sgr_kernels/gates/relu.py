"""ReLU and leaky ReLU: one bit an element is all that the first pass, its backward and every later pass keep."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..operators.common.dtypes import FLOATING
from ..operators.gate_bits import record_relu, record_relu_, replay_relu, replay_relu_
from .tape import Gates, memory_format


def gated_relu(gates: Gates, x: Tensor, slope: float, inplace: bool) -> Tensor:
    """x where the gate is open, ``slope`` x elsewhere."""
    if torch.compiler.is_compiling() or x.dtype not in FLOATING:
        y = torch.where(gates.decide(torch.le, x, 0), slope * x if slope else 0.0, x)
        return x.copy_(y) if inplace else y
    return _Relu.apply(x, gates, slope, inplace)


class _ReluBits(NamedTuple):
    """Gates of a ReLU, one bit an element."""

    bits: Tensor  # (ceil(n / 8),) uint8
    format: torch.memory_format  # in whose order of elements


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gates, slope, inplace):
        recorded = None if gates.recording else gates.recall()
        layout = (memory_format(x) or torch.contiguous_format) if recorded is None else recorded.format
        dense = x.contiguous(memory_format=layout)
        y, bits = _gated(dense, None if recorded is None else recorded.bits, slope, inplace and dense is x)
        if recorded is None:
            gates.keep(_ReluBits(bits, layout))
        if inplace:
            ctx.mark_dirty(x)
            y = x if dense is x else x.copy_(y)
        ctx.save_for_backward(bits)
        ctx.slope, ctx.layout = slope, layout
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (bits,) = ctx.saved_tensors
        return _gated(grad.contiguous(memory_format=ctx.layout), bits, ctx.slope, False)[0], None, None, None


def _gated(x: Tensor, bits: Tensor | None, slope: float, inplace: bool) -> tuple[Tensor, Tensor]:
    """Leaky ReLU of a tensor without gaps in memory, and its gates: ``bits``, or those of x if that is None."""
    memory = x.as_strided((x.numel(),), (1,))
    if inplace:
        if bits is None:
            bits = record_relu_(memory, slope)
        else:
            replay_relu_(memory, bits, slope)
        return x, bits
    if bits is None:
        y, bits = record_relu(memory, slope)
    else:
        y = replay_relu(memory, bits, slope)
    return y.as_strided(x.shape, x.stride()), bits
