"""row_norms in Triton: the first sweep of sgr_loss, for one tensor."""

import torch
from torch import Tensor

from ..sgr_loss.triton import partial_sums


def row_norms(rows: Tensor) -> Tensor:
    """Implementation of ``sgr_triton::row_norms``: (B,) float64."""
    if rows.numel() == 0:
        return rows.new_zeros(len(rows), dtype=torch.float64)
    with torch.cuda.device_of(rows):
        return partial_sums(rows, None)[0].sum(1).sqrt()
