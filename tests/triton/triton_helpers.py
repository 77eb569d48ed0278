"""Inputs and formulas of the cases for Triton kernels."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from helpers import upcast

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def widest(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def within_nan(matrix):
    """The same matrix as a part of a larger one, and with other strides."""
    rows, columns = matrix.shape
    wide = matrix.new_full((rows + 3, columns + 21), math.nan)
    wide[1:-2, 5:-16] = matrix
    return wide[1:-2, 5:-16]


def column_major(matrix):
    return matrix.t().contiguous().t()


def exact_shift(x, delta, target, alpha, beta, factor):
    x, delta, target, alpha, beta = map(upcast, (x, delta, target, alpha, beta))
    return x + np.longdouble(factor) * (alpha[:, None] * delta + beta[:, None] * target)


def plain_shift(x, delta, target, alpha, beta, factor):
    """In the dtype of x."""
    return x + factor * (alpha[:, None].to(x.dtype) * delta + beta[:, None].to(x.dtype) * target)
