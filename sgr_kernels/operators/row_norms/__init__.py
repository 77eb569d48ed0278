"""row_norms: the Euclidean norms of rows, accumulated in float64 without a float64 copy of the rows.

Kernels: csrc/row_norms/kernel.cuh (CUDA) and cpu.cpp, :mod:`.triton`, :mod:`.reference`.
"""

import torch

from ..common.comparison import numbers
from ..common.operator import Operator
from . import reference


def _triton(*args):
    from .triton import row_norms

    return row_norms(*args)


def _fake(rows):
    torch._check(rows.dim() == 2, lambda: f"row_norms expects rows (B, n), got shape {tuple(rows.shape)}")
    return rows.new_empty(rows.shape[0], dtype=torch.float64)


def _example(dtype):
    yield (numbers(3, 7, dtype=dtype),)
    yield (numbers(2, 20_003, dtype=dtype),)


# rows (B, n) with unit stride along a row -> (B,) float64
row_norms = Operator(
    "row_norms(Tensor rows) -> Tensor",
    fake=_fake,
    reference=reference.row_norms,
    triton=_triton,
    example=_example,
)
