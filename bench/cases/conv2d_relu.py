"""What conv2d_relu, its backward and its double backward are checked and timed on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgr_kernels.operators.conv2d_relu import conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward

from .case import Inputs, Size
from .relu_layer import layer_cases

GEOMETRY = [2, 1], [1, 1], [1, 1], 1  # stride, padding, dilation, groups
# (B, C, H, W), for C filters of 3 x 3: the feature maps of a ResNet-32 on CIFAR, and the first ones of a ResNet-50 on
# ImageNet
SIZES = (
    Size((2, 2, 4, 5)),
    Size((2, 4, 9, 9)),
    Size((2, 4, 9, 9), channels_last=True),
    Size((128, 64, 8, 8), timed="quick"),
    Size((128, 32, 16, 16), timed="full"),
    Size((128, 16, 32, 32), timed="full"),
    Size((8, 64, 56, 56), timed="full"),
    Size((256, 64, 56, 56), timed="gpu", halves=True),
)


def _tensors(size: Size, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    channels = size.shape[1]
    layout = torch.channels_last if size.channels_last else torch.contiguous_format
    x = inputs.normal(size.shape).contiguous(memory_format=layout)
    return x, inputs.normal((channels, channels, 3, 3)), inputs.normal((channels,))


_OPERATORS = conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward
CASES = dict(zip(_OPERATORS, layer_cases(SIZES, _tensors, F.conv2d, GEOMETRY), strict=True))
