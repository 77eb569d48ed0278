"""sgr_shift in Triton. Its kernel, `combine_kernel` in common/triton_rows.py, serves the backward of sgr_loss too."""

from torch import Tensor

from ..common.triton_rows import combined


def sgr_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float) -> Tensor:
    """Implementation of ``sgr_triton::sgr_shift``: (B, n) in the dtype of ``x``."""
    return combined(x.new_empty(x.shape), delta, target, alpha, beta, x=x, factor=factor)
