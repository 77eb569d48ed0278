"""The gate of a ReLU layer in its backward pass.

Operators see (R, C, S) contiguous tensors: (B, features, 1) of a linear layer, (B, channels, H W) of an image, or
(B H W, channels, 1) of a channels-last one.
"""

from __future__ import annotations

import torch

from .. import reference
from .registry import register


def _fake_relu_backward(grad, output, sum_channels):
    torch._check(grad.dim() == 3, lambda: f"relu_backward expects (R, C, S), got shape {tuple(grad.shape)}")
    sums = grad.new_empty(grad.shape[1] if sum_channels else 0, dtype=reference.loss_dtype(grad))
    return grad.new_empty(grad.shape), sums


# A = grad where output > 0 (or NaN), else 0; and its sums over all but C, the bias gradient: (C,) float32 (float64 for
# float64), or (0,) without sum_channels
register(
    "relu_backward",
    "(Tensor grad, Tensor output, bool sum_channels) -> (Tensor masked, Tensor sums)",
    _fake_relu_backward,
    triton_file="relu_backward",
)
