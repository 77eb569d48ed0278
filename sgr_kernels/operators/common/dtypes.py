"""Which dtypes operators take, and in which they answer."""

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def loss_dtype(like: Tensor) -> torch.dtype:
    """Dtype of losses, residuals and sums: float64 for float64 tensors, float32 for all others."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32
