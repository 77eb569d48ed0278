"""The gate of a ReLU in the backward pass, on tensors of any layout."""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops, reference
from .backends import select


def relu_backward(grad: Tensor, output: Tensor, sum_channels: bool) -> tuple[Tensor, Tensor | None]:
    """``grad`` where ``output`` > 0, else 0, and its sum over all but the channels, in one pass.

    Args:
        grad, output: (..., m) of a linear layer (2 dimensions, or 3), or (B, m, H, W) of a convolution; one dtype.
        sum_channels: whether the sums are wanted.

    Returns:
        The gated gradient in the layout of ``output``, and the sums (m,), float32 (float64 for float64), or None.
    """
    name = select(grad)
    if name == "reference":
        return reference.relu_backward(grad, output, sum_channels)
    operators = ops.triton if name == "triton" else ops.native
    rows, back = _channel_rows(output)
    masked, sums = operators.relu_backward(_channel_rows(grad.expand_as(output), like=output)[0], rows, sum_channels)
    return back(masked), sums if sum_channels else None


def _channel_rows(tensor: Tensor, like: Tensor | None = None):
    """(R, C, S) contiguous, and the way back; a view where the layout allows it."""
    like = tensor if like is None else like
    if tensor.dim() != 4:
        return tensor.contiguous().view(-1, tensor.shape[-1], 1), lambda rows: rows.view(tensor.shape)
    if like.is_contiguous():
        return tensor.contiguous().flatten(2), lambda rows: rows.view(tensor.shape)
    last = tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return last.reshape(-1, tensor.shape[1], 1), lambda rows: rows.view(last.shape).permute(0, 3, 1, 2)
