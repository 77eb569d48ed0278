"""row_norms in plain PyTorch."""

import torch
from torch import Tensor


def row_norms(rows: Tensor) -> Tensor:
    """|row_b|, (B,) float64."""
    return torch.linalg.vector_norm(rows.double(), dim=1)
