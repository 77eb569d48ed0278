"""Recorded gates by plain torch and numpy, and inputs that hold everything a floating-point number may be."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 1000)
SLOPES = (0.0, 0.01, -1.0)
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def gated_values(n: int, dtype: torch.dtype, offset: int = 0, device: str = "cpu") -> Tensor:
    """n elements that start ``offset`` elements after an aligned address, with NaN on both sides."""
    limits = torch.finfo(dtype)
    sizes = torch.tensor([math.nan, math.inf, 0.0, limits.tiny, limits.tiny * limits.eps, limits.max, 1.0], dtype=dtype)
    memory = torch.full((n + offset + 16,), torch.nan, dtype=dtype, device=device)
    x = memory[offset : offset + n].copy_(torch.randn(n, dtype=torch.float64))
    x[1::3] = torch.cat([sizes, -sizes]).repeat(n)[: len(x[1::3])].to(device)
    return x


def as_integers(x: Tensor) -> Tensor:
    return x.view(_INTEGERS[x.element_size()])


def packed_gates(x: Tensor) -> Tensor:
    """One bit an element, the lowest first: 1 where x is above 0 or NaN."""
    return torch.from_numpy(np.packbits(~(x <= 0).cpu().numpy(), bitorder="little")).to(x.device)


def random_gates(n: int, device: str = "cpu") -> Tensor:
    return packed_gates(torch.randn(n, device=device))


def gated_relu(x: Tensor, bits: Tensor, slope: float) -> Tensor:
    """Half types are multiplied in float32, as torch does."""
    is_open = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), bitorder="little")[: len(x)]).to(x.device).bool()
    wide = x if x.element_size() >= 4 else x.float()
    product = (wide * torch.tensor(slope, dtype=wide.dtype, device=x.device)).to(x.dtype)
    return torch.where(is_open, x, product if slope != 0 else torch.zeros_like(x))


def assert_same_numbers(result: Tensor, expected: Tensor) -> None:
    """To the last bit, -0 is not 0; only one NaN is as good as another."""
    assert result.dtype == expected.dtype and result.shape == expected.shape
    nan = expected.isnan()
    assert torch.equal(result.isnan(), nan)
    assert torch.equal(as_integers(result)[~nan], as_integers(expected)[~nan])
