"""Every fused operation spelled in plain PyTorch: slow, transparent, differentiable to any order.

This is the ground truth of the tests. Nothing here calls a kernel of this package. Section, equation and algorithm
numbers are those of Yang et al., "Towards Interpretable Deep Local Learning with Successive Gradient Reconciliation",
ICML 2024.
"""

import torch
from torch import Tensor, nn

from .operators.cross_entropy.reference import cross_entropy, cross_entropy_gradient, cross_entropy_hvp
from .operators.gate_bits.reference import pack_bits, unpack_bits
from .operators.sgr_loss.reference import sgr_loss
from .operators.sgr_residual.reference import sgr_residual

__all__ = [
    "algorithm1_step",
    "cross_entropy",
    "cross_entropy_gradient",
    "cross_entropy_hvp",
    "pack_bits",
    "sgr_loss",
    "sgr_residual",
    "unpack_bits",
]


def algorithm1_step(
    body: nn.Module, head: nn.Module, x: Tensor, y: Tensor, delta_pre: Tensor | None, *, weight: float
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """One module of Algorithm 1, line by line, with a double backward. Adds into ``.grad`` of body and head.

    The printed algorithm stores delta_pre at k = 1 only; here every module hands it on, as its text demands.
    Returns (local loss, SGR loss or None, output x_k, delta dL_k/dx_k), all detached.
    """
    x = x.detach().requires_grad_()
    output = body(x)
    loss_cls = head(output, y)
    delta_out = torch.autograd.grad(loss_cls, output, retain_graph=True)[0].detach()
    if delta_pre is None:
        loss_cls.backward()
        return loss_cls.detach(), None, output.detach(), delta_out
    delta_now = torch.autograd.grad(loss_cls, x, retain_graph=True, create_graph=True)[0]
    delta_pre_norm = torch.flatten(delta_pre, 1)
    delta_pre_norm = delta_pre_norm / torch.sqrt(torch.sum(delta_pre_norm**2, dim=1, keepdim=True))
    delta_now_norm = torch.flatten(delta_now, 1)
    delta_now_norm = delta_now_norm / torch.sqrt(torch.sum(delta_now_norm**2, dim=1, keepdim=True))
    loss_sgr = nn.functional.mse_loss(delta_now_norm, delta_pre_norm)
    (loss_cls + weight * loss_sgr).backward()
    return loss_cls.detach(), loss_sgr.detach(), output.detach(), delta_out
