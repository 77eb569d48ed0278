"""relu_backward in plain PyTorch."""

import torch
from torch import Tensor

from ..common.checks import loss_dtype


def relu_backward(grad: Tensor, output: Tensor, sum_channels: bool) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::relu_backward``."""
    masked = torch.where(output <= 0, 0.0, grad)
    if not sum_channels:
        return masked, grad.new_empty(0, dtype=loss_dtype(grad))
    return masked, masked.sum((0, 2), dtype=loss_dtype(grad))
