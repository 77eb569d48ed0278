"""Eq. 35 of one linear ReLU block in two matrix products whose Triton kernels gate, reconcile and shift on the way.

The library's products with fused kernels between them are the alternative (:mod:`.fused`). Which of the two is faster
for which shape has to be measured on a GPU; until it has been, these run only where the Triton backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..affine import Linear
from ..backends import select
from ..blocks import Chain
from ..operators.linear_relu_delta import linear_relu_delta
from ..operators.linear_relu_weight_grad import linear_relu_weight_grad
from .common import Settings


def available(chain: Chain, target: Tensor, settings: Settings) -> bool:
    """Whether the kernels can do this step. The scale and the floor ask for delta before its sums are known."""
    block = chain.blocks[0]
    return (
        linear_relu_delta.has(select(block.x))
        and len(chain.blocks) == 1
        and isinstance(block.affine, Linear)
        and block.relu
        and block.x.dim() == 2
        and block.x.dtype == target.dtype != torch.float64
        and settings.grad_scale == 1.0
        and settings.relative_floor == 0.0
    )


def reconcile(chain: Chain, grad: Tensor, target: Tensor, settings: Settings) -> Tensor:
    """SGR loss; the block keeps the gradients of L and sgr_weight times the SGR loss together.

    Args:
        grad: (B, m) dL/dy.
        target: (B, n).
    """
    [block] = chain.blocks
    grad, target = grad.to(block.x.dtype).contiguous(), target.contiguous()
    options = settings.options(block.x).arguments(block.x)  # without a floor: see available()
    delta, sgr, (alpha, beta, _) = linear_relu_delta(grad, block.y, block.matrix, target, *options)
    block.grad_weight, block.grad_bias = linear_relu_weight_grad(
        grad, block.y, block.x, delta, target, alpha, beta, settings.weight, block.bias is not None
    )
    return sgr
