"""linear_relu: relu(x W^T + b), its backward and its double backward: library products and :mod:`..relu_backward`."""

from ...affine import Linear
from ..common.relu_layer import layer_operators

# x (..., n), weight (m, n), bias (m,) -> (..., m)
linear_relu, linear_relu_backward, linear_relu_double_backward = layer_operators("linear_relu", Linear)
