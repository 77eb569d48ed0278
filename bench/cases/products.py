"""Sizes and inputs of the fused products of a linear ReLU block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .case import Inputs, Size

# (B, m, n)
SIZES = (
    Size((21, 41, 57)),  # masks everywhere, and no wide loads
    Size((64, 64, 96)),  # neither masks nor narrow loads
    Size((1025, 32, 1920)),  # large tiles for delta
    Size((21, 1040, 1920)),  # for the gradient of the weight
    Size((2, 40, 48), apart=2**23),  # offsets in a tile that may exceed 32 bits
    Size((250, 333, 301)),
    Size((200, 1008, 1008)),
    Size((8192, 4096, 4096)),
    Size((4096, 4096, 4096), apart=2**25),
)


def in_every_precision(inputs: Inputs) -> Iterator[None]:
    """Once for each precision of products, which is in force meanwhile; not at all for float64, which is refused."""
    if inputs.dtype == torch.float64:
        return
    yield
    if inputs.dtype == torch.float32:
        with _tf32():
            yield


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
