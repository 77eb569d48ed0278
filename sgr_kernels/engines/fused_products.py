"""Eq. 35 of one linear ReLU block in two products whose Triton kernels gate, reconcile and shift on the way.

The library's products with fused kernels between them are the alternative (:mod:`.fused`). Which of the two is faster
for which shape has to be measured on a GPU; until it has been, these run only where the Triton backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..affine import Linear
from ..backends import select
from ..blocks import Chain
from .common import Settings


def available(chain: Chain, x: Tensor, delta_pre: Tensor, settings: Settings) -> bool:
    """Whether the kernels can do this step. The scale and the floor ask for delta before its sums are known."""
    block = chain.blocks[0]
    return (
        select(x) == "triton"
        and len(chain.blocks) == 1
        and isinstance(block.affine, Linear)
        and block.relu
        and x.dim() == 2
        and x.dtype == delta_pre.dtype != torch.float64
        and settings.grad_scale == 1.0
        and settings.relative_floor == 0.0
    )


def reconcile(
    chain: Chain, x: Tensor, output: Tensor, grad: Tensor, delta_pre: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor | None]:
    """SGR loss, and the gradients of weight and bias for the loss and weight times the SGR loss together."""
    [block] = chain.blocks
    grad, target = grad.to(x.dtype).contiguous(), delta_pre.contiguous()
    index = ops.REDUCTIONS.index(settings.reduction)
    delta, sgr, coef = ops.triton.linear_relu_delta(
        grad, output, block.weight, target, settings.normalize, index, 0.0, None, 1e-12
    )
    grad_weight, grad_bias = ops.triton.linear_relu_weight_grad(
        grad, output, x, delta, target, coef[0], coef[1], settings.weight, block.bias is not None
    )
    return sgr, grad_weight, grad_bias if block.bias is not None else None
