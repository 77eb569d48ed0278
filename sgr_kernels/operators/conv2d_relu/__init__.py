"""conv2d_relu: relu(conv2d(x, W) + b), its backward and its double backward, as :mod:`..linear_relu`."""

from ...affine import Conv2d
from ..common import relu_layer
from ..common.operator import Operator

_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"  # the arguments of Conv2d, always the last


def _forward(x, weight, bias, *geometry):
    return relu_layer.forward(Conv2d(*geometry), x, weight, bias)


def _backward(grad, output, x, weight, wanted, *geometry):
    return relu_layer.backward(Conv2d(*geometry), grad, output, x, weight, wanted)


def _double_backward(v_x, v_weight, v_bias, grad, output, x, weight, wanted, *geometry):
    return relu_layer.double_backward(Conv2d(*geometry), v_x, v_weight, v_bias, grad, output, x, weight, wanted)


conv2d_relu_double_backward = Operator(
    "conv2d_relu_double_backward(Tensor? v_x, Tensor? v_weight, Tensor? v_bias, Tensor grad, Tensor output, Tensor x,"
    f" Tensor weight, bool[] wanted, {_GEOMETRY}) -> (Tensor, Tensor, Tensor)",
    fake=_double_backward,
    composed=_double_backward,
)
conv2d_relu_backward = Operator(
    f"conv2d_relu_backward(Tensor grad, Tensor output, Tensor x, Tensor weight, bool[] wanted, {_GEOMETRY})"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward,
    composed=_backward,
    derivative=relu_layer.second_derivative_by(conv2d_relu_double_backward),
)
# x (B, C, H, W), weight (m, C / groups, kH, kW), bias (m,) -> (B, m, H', W')
conv2d_relu = Operator(
    f"conv2d_relu(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor",
    fake=_forward,
    composed=_forward,
    derivative=relu_layer.derivative_by(conv2d_relu_backward),
)
