"""gate_bits in plain PyTorch."""

import math

import torch
from torch import Tensor, nn


def pack_bits(mask: Tensor) -> Tensor:
    """Bool of any shape -> uint8 (ceil(n / 8),): bit i % 8 of byte i // 8 is element i, in row-major order."""
    padded = nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    return (padded * _bit_values(mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of :func:`pack_bits`."""
    return (bits.unsqueeze(1) & _bit_values(bits.device)).bool().view(-1)[: math.prod(shape)].view(shape)


def record_relu(x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::record_relu``."""
    bits = pack_bits(~(x <= 0))
    return replay_relu(x, bits, slope), bits


def record_relu_(x: Tensor, slope: float) -> Tensor:
    """Implementation of ``sgr_reference::record_relu_``."""
    y, bits = record_relu(x, slope)
    x.copy_(y)
    return bits


def replay_relu(x: Tensor, bits: Tensor, slope: float) -> Tensor:
    """Implementation of ``sgr_reference::replay_relu``."""
    return torch.where(unpack_bits(bits, x.shape), x, slope * x if slope else 0.0)


def replay_relu_(x: Tensor, bits: Tensor, slope: float) -> None:
    """Implementation of ``sgr_reference::replay_relu_``."""
    x.copy_(replay_relu(x, bits, slope))


def _bit_values(device: torch.device) -> Tensor:
    return torch.ones(8, dtype=torch.uint8, device=device) << torch.arange(8, dtype=torch.uint8, device=device)
