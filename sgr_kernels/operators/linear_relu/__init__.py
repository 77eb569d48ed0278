"""linear_relu: relu(x W^T + b), its backward and its double backward: library products and :mod:`..relu_backward`."""

from functools import partial

from ...affine import Linear
from ..common import relu_layer
from ..common.operator import Operator

_forward = partial(relu_layer.forward, Linear())
_backward = partial(relu_layer.backward, Linear())
_double_backward = partial(relu_layer.double_backward, Linear())


# The implementations are made of other operators, so they also are their own fakes.
linear_relu_double_backward = Operator(
    "linear_relu_double_backward(Tensor? v_x, Tensor? v_weight, Tensor? v_bias, Tensor grad, Tensor output, Tensor x,"
    " Tensor weight, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    fake=_double_backward,
    composed=_double_backward,
)
linear_relu_backward = Operator(
    "linear_relu_backward(Tensor grad, Tensor output, Tensor x, Tensor weight, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward,
    composed=_backward,
    derivative=relu_layer.second_derivative_by(linear_relu_double_backward),
)
# x (..., n), weight (m, n), bias (m,) -> (..., m)
linear_relu = Operator(
    "linear_relu(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    fake=_forward,
    composed=_forward,
    derivative=relu_layer.derivative_by(linear_relu_backward),
)
