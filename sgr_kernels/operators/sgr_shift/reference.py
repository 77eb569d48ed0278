"""sgr_shift in plain PyTorch."""

from torch import Tensor

from ..sgr_loss.reference import combine


def sgr_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float) -> Tensor:
    """Implementation of ``sgr_reference::sgr_shift``: the sum is rounded once."""
    return (x.double() + factor * combine(delta, target, alpha, beta)).to(x.dtype)
