"""sgr_residual in plain PyTorch: by autograd, as it is defined, and by the formula, as the reference backend has it."""

import torch
from torch import Tensor

from ..common.dtypes import loss_dtype
from ..common.options import DEFAULT, Options
from ..sgr_loss.reference import coefficients, combine, sgr_loss


def sgr_residual(delta: Tensor, target: Tensor, options: Options = DEFAULT) -> tuple[Tensor, Tensor]:
    """sgr_loss and its gradient with respect to ``delta``, by autograd, without leaving a graph."""
    with torch.enable_grad():
        leaf = delta.detach().to(loss_dtype(delta)).requires_grad_()
        loss = sgr_loss(leaf, target.detach().to(leaf.dtype), options)
        (v,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), v


def sgr_residual_of_rows(delta: Tensor, target: Tensor, *arguments) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::sgr_residual``."""
    options = Options.of(*arguments)
    alpha, beta, _ = coefficients(delta, target, options)
    return sgr_loss(delta, target, options), combine(delta, target, alpha, beta).to(loss_dtype(delta))
