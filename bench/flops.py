"""FLOPs of the operators for :class:`torch.utils.flop_counter.FlopCounterMode`, which counts matrix products only.

Importing this module registers the formulas. Other products of this package call ATen, which torch counts itself.
"""

import math

import torch
from torch.utils.flop_counter import register_flop_formula

from sgr_kernels.operators.common.operator import Operator
from sgr_kernels.operators.conv2d_relu import conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward
from sgr_kernels.operators.linear_relu import linear_relu, linear_relu_backward, linear_relu_double_backward

Shape = torch.Size


def _formula(*operators: Operator):
    return register_flop_formula([overload.overloadpacket for each in operators for overload in each.overloads()])


def _flops(weight: Shape, output: Shape) -> int:
    """Of one product: 2 B m n for a linear layer, and as much for every position of the output of a convolution."""
    channel = 1 if len(output) == 4 else len(output) - 1
    return 2 * math.prod(weight) * math.prod(output) // output[channel]


@_formula(linear_relu, conv2d_relu)
def _forward(x, weight, bias, *geometry, out_shape=None, **_) -> int:
    return _flops(weight, out_shape)


@_formula(linear_relu_backward, conv2d_relu_backward)
def _backward(grad, output, x, weight, wanted, *geometry, **_) -> int:
    return sum(wanted[:2]) * _flops(weight, output)


@_formula(linear_relu_double_backward, conv2d_relu_double_backward)
def _double_backward(v_x, v_weight, v_bias, grad, output, x, weight, wanted, *geometry, **_) -> int:
    need_grad, need_x, need_weight = wanted
    products = (need_grad + need_weight) * (v_x is not None) + (need_grad + need_x) * (v_weight is not None)
    return products * _flops(weight, output)
