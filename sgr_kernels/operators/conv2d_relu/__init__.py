"""conv2d_relu: relu(conv2d(x, W) + b), its backward and its double backward, as :mod:`..linear_relu`."""

from ...affine import Conv2d
from ..common.relu_layer import layer_operators

_GEOMETRY = ", int[] stride, int[] padding, int[] dilation, int groups"  # the arguments of Conv2d

# x (B, C, H, W), weight (m, C / groups, kH, kW), bias (m,) -> (B, m, H', W')
conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward = layer_operators("conv2d_relu", Conv2d, _GEOMETRY)
