"""sgr_residual in plain PyTorch, by its formula, in float64."""

from torch import Tensor

from ..common.checks import loss_dtype
from ..common.options import Options
from ..sgr_loss.reference import coefficients, combine, sgr_loss


def sgr_residual(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::sgr_residual``."""
    options = Options.of(*arguments)
    alpha, beta, _, _ = coefficients(delta, target, options)
    return sgr_loss(delta, target, options), combine(delta, target, alpha, beta).to(loss_dtype(delta))
