"""FLOPs of the operators for :class:`torch.utils.flop_counter.FlopCounterMode`, which counts products only.

Everything else in this package multiplies through ATen and is counted without help.
"""

from __future__ import annotations

import math

import torch
from torch.utils.flop_counter import register_flop_formula

from . import ops

Shape = torch.Size


def _product(weight: Shape, output: Shape) -> int:
    """2 B m n for a linear layer, and the same for every position of a convolution: weights times outputs a channel."""
    channel = 1 if len(output) == 4 else len(output) - 1
    return 2 * math.prod(weight) * math.prod(output) // output[channel]


def _layer(name: str) -> None:
    @register_flop_formula(getattr(torch.ops.sgr, name))
    def forward(x, weight, bias, *geometry, out_shape=None, **_) -> int:
        return _product(weight, out_shape)

    @register_flop_formula(getattr(torch.ops.sgr, f"{name}_backward"))
    def backward(grad, output, x, weight, wanted, *geometry, **_) -> int:
        return sum(wanted[:2]) * _product(weight, output)

    @register_flop_formula(getattr(torch.ops.sgr, f"{name}_double_backward"))
    def double_backward(v_x, v_weight, v_bias, grad, output, x, weight, wanted, *geometry, **_) -> int:
        need_grad, need_x, need_weight = wanted
        products = (need_grad + need_weight) * (v_x is not None) + (need_grad + need_x) * (v_weight is not None)
        return products * _product(weight, output)


for _name in ("linear_relu", "conv2d_relu"):
    _layer(_name)


@register_flop_formula(torch.ops.sgr_triton.linear_relu_delta)
def _linear_relu_delta(grad, output, weight, *options, **_) -> int:
    return _product(weight, output)


@register_flop_formula(torch.ops.sgr_triton.linear_relu_weight_grad)
def _linear_relu_weight_grad(grad, output, x, *rest, **_) -> int:
    return _product((output[1], x[1]), output)


__all__ = ["ops"]  # importing this module registers the formulas, after the operators
