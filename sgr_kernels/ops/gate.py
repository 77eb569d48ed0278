"""The gate of a ReLU in the backward pass, on tensors of any layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import reference
from ..backends import select
from .registry import of


def relu_backward(
    grad: Tensor, output: Tensor, features_last: bool, sum_features: bool
) -> tuple[Tensor, Tensor | None]:
    """``grad`` where ``output`` > 0, else 0, and its sum over all but the features, in one pass.

    Args:
        grad, output: (..., m) if ``features_last``, else (B, m, H, W); one dtype.
        sum_features: whether the sums are wanted.

    Returns:
        The gated gradient in the layout of ``output``, and the sums (m,), float32 (float64 for float64), or None.
    """
    name = select(grad)
    if name == "reference":
        return reference.relu_backward(grad, output, features_last, sum_features)
    images_first = not features_last and output.is_contiguous()
    rows, back = _channel_rows(output, features_last, images_first)
    masked, sums = of(name).relu_backward(_channel_rows(grad, features_last, images_first)[0], rows, sum_features)
    return back(masked), sums if sum_features else None


def _channel_rows(tensor: Tensor, features_last: bool, images_first: bool) -> tuple[Tensor, Callable]:
    """(R, C, S) contiguous, and the way back; a view where the layout allows it."""
    if features_last:
        return tensor.contiguous().view(-1, tensor.shape[-1], 1), lambda rows: rows.view(tensor.shape)
    if images_first:
        return tensor.contiguous().flatten(2), lambda rows: rows.view(tensor.shape)
    last = tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return last.reshape(-1, tensor.shape[1], 1), lambda rows: rows.view(last.shape).permute(0, 3, 1, 2)
