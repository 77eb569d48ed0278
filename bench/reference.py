"""The truth of tests and benchmarks: fused operations in plain PyTorch, their derivatives by autograd, and Algorithm 1.

Nothing here calls a kernel of the library. Section, equation and algorithm numbers are those of Yang et al., "Towards
Interpretable Deep Local Learning with Successive Gradient Reconciliation", ICML 2024.
"""

import torch
from torch import Tensor, nn

from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.common.options import DEFAULT, Options
from sgr_kernels.operators.cross_entropy.reference import cross_entropy as cross_entropy
from sgr_kernels.operators.gate_bits.reference import pack_bits as pack_bits
from sgr_kernels.operators.gate_bits.reference import unpack_bits as unpack_bits
from sgr_kernels.operators.sgr_loss.reference import sgr_loss as sgr_loss


def sgr_residual(delta: Tensor, target: Tensor, options: Options = DEFAULT) -> tuple[Tensor, Tensor]:
    """sgr_loss and its gradient with respect to ``delta``, by autograd, without leaving a graph."""
    with torch.enable_grad():
        leaf = delta.detach().to(loss_dtype(delta)).requires_grad_()
        loss = sgr_loss(leaf, target.detach().to(leaf.dtype), options)
        (v,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), v


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy` and its gradient for the logits, by autograd, without leaving a graph."""
    with torch.enable_grad():
        leaf = logits.detach().to(loss_dtype(logits)).requires_grad_()
        loss = cross_entropy(leaf, labels)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def cross_entropy_hvp(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """Hessian of :func:`cross_entropy` for the logits, applied to ``tangent``, by autograd."""
    with torch.enable_grad():
        leaf = logits.detach().to(loss_dtype(logits)).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(leaf, labels), leaf, create_graph=True)
        return torch.autograd.grad(gradient, leaf, tangent)[0]


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
