"""Decisions as the tape keeps them: copies, and tensors of bool at one bit an element."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..operators.gate_bits import record_relu_, replay_relu_
from ..operators.gate_bits.reference import pack_bits, unpack_bits


class PackedBools(NamedTuple):
    """A tensor of bool, or of zeros and ones, one bit an element."""

    bits: Tensor  # (ceil(n / 8),) uint8
    shape: torch.Size  # of the tensor, n elements
    format: torch.memory_format  # of the same: the layout decides which kernels torch takes, and how they round
    dtype: torch.dtype


SMALL = 4096  # elements, below which packing takes longer than it is worth


def packed(decision: Any) -> Any:
    if not isinstance(decision, Tensor) or decision.dtype != torch.bool:
        return copied(decision)
    if not torch.compiler.is_compiling() and decision.numel() < SMALL:
        return copied(decision)
    return bits_of(decision)


def bits_of(values: Tensor) -> PackedBools:
    layout = memory_format(values) or torch.contiguous_format
    values = values.detach()
    if torch.compiler.is_compiling():
        bits = pack_bits(values.bool())
    else:  # by the kernels for ReLU: 1 is above 0
        bits = record_relu_(values.flatten().to(torch.bfloat16, copy=True), 0.0)
    return PackedBools(bits, values.shape, layout, values.dtype)


def unpacked(entry: Any) -> Any:
    if not isinstance(entry, PackedBools):
        return copied(entry)
    if torch.compiler.is_compiling():
        values = unpack_bits(entry.bits, entry.shape)
    else:
        values = torch.ones(entry.shape, dtype=torch.bfloat16, device=entry.bits.device)
        replay_relu_(values.view(-1), entry.bits, 0.0)
    return values.to(entry.dtype).contiguous(memory_format=entry.format)


def memory_format(x: Tensor) -> torch.memory_format | None:
    """The format of x in memory; None if there are gaps or torch has no name for the order."""
    if x.is_contiguous():
        return torch.contiguous_format
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last if last is not None and x.is_contiguous(memory_format=last) else None


def in_memory(dense: Tensor) -> Tensor:
    """The elements in the order in which they lie in memory, (n,)."""
    return dense.as_strided((dense.numel(),), (1,))


def strided_as_from(x: Tensor, y: Tensor) -> Tensor:
    """``y``, by element computed from x, with the strides that torch would give it: a network may need them for a view.

    Args:
        y: in the format of x, if that has one.
    """
    return y if memory_format(x) is not None else torch.empty_like(x).copy_(y)


def copied(value: Any) -> Any:
    """A copy, since the network may write into a tensor it got."""
    return value.detach().clone() if isinstance(value, Tensor) else value
