"""Eq. 35 of one linear ReLU block in two Triton kernels, each a matrix product with the work around it.

The alternative is :mod:`.fused`: the matrix products of a library, with a kernel between any two. Which is faster for
which shape has to be measured on a GPU; until then the two kernels run only where the Triton backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..affine import Linear
from ..backends import select
from ..blocks import Chain
from ..operators.linear_relu_delta import linear_relu_delta
from ..operators.linear_relu_weight_grad import linear_relu_weight_grad
from .common import StepOptions


def available(chain: Chain, target: Tensor, options: StepOptions) -> bool:
    """Whether the kernels can take this step.

    They form the sums of the SGR loss together with delta, so delta can be neither unscaled nor measured before.
    """
    block = chain.blocks[0]
    return (
        linear_relu_delta.has(select(block.x))
        and len(chain.blocks) == 1
        and isinstance(block.affine, Linear)
        and block.relu
        and block.x.dim() == 2
        and block.x.dtype == target.dtype != torch.float64
        and options.grad_scale == 1.0
        and options.relative_floor == 0.0
    )


def reconcile(chain: Chain, grad: Tensor, target: Tensor, options: StepOptions) -> Tensor:
    """The SGR loss; the block keeps the gradients of L + sgr_weight times the SGR loss.

    Args:
        grad: (B, m) dL/dy.
        target: (B, n).
    """
    [block] = chain.blocks
    grad, target = grad.to(block.x.dtype).contiguous(), target.contiguous()
    comparison = options.comparison(block.x).arguments(block.x)  # there is no floor, so any tensor does
    delta, sgr, (alpha, beta, _) = linear_relu_delta(grad, block.y, block.matrix, target, *comparison)
    block.grad_weight, block.grad_bias = linear_relu_weight_grad(
        grad, block.y, block.x, delta, target, alpha, beta, options.sgr_weight, block.bias is not None
    )
    return sgr
