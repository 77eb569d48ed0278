"""Eq. 35 of one linear ReLU block in two products whose Triton kernels gate, reconcile and shift on the way.

The library's products with fused kernels between them are the alternative (:mod:`.fused`). Which of the two is faster
for which shape has to be measured on a GPU; until it has been, these run only where the Triton backend is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import select
from ..blocks import Chain
from ..operators.linear_relu_delta import linear_relu_delta
from ..operators.linear_relu_weight_grad import linear_relu_weight_grad
from ..products import Linear
from .common import Settings


def available(chain: Chain, x: Tensor, delta_pre: Tensor, settings: Settings) -> bool:
    """Whether the kernels can do this step. The scale and the floor ask for delta before its sums are known."""
    block = chain.blocks[0]
    return (
        linear_relu_delta.has(select(x))
        and len(chain.blocks) == 1
        and isinstance(block.product, Linear)
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
    options = settings.options(x).arguments(x)  # available() has seen that there is no floor
    delta, sgr, coef = linear_relu_delta(grad, output, block.weight, target, *options)
    grad_weight, grad_bias = linear_relu_weight_grad(
        grad, output, x, delta, target, coef[0], coef[1], settings.weight, block.bias is not None
    )
    return sgr, grad_weight, grad_bias if block.bias is not None else None
