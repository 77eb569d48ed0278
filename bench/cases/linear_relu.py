"""What linear_relu, its backward and its double backward are checked and timed on."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sgr_kernels.operators.linear_relu import linear_relu, linear_relu_backward, linear_relu_double_backward

from .case import Inputs, Size
from .relu_layer import layer_cases

# (B, n, m)
SIZES = (
    Size((3, 4, 5)),
    Size((21, 33, 40)),
    Size((128, 256, 256), timed="quick", halves=True),
    Size((32, 1024, 1024), timed="full"),
    Size((128, 1024, 1024), timed="full"),
    Size((512, 1024, 1024), timed="full"),
    Size((512, 2048, 2048), timed="full"),
    Size((4096, 4096, 4096), timed="gpu", halves=True),
    Size((8192, 4096, 4096), timed="gpu", halves=True),
)


def _tensors(size: Size, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, m = size.shape
    return inputs.normal((batch, n)), inputs.normal((m, n)), inputs.normal((m,))


_OPERATORS = linear_relu, linear_relu_backward, linear_relu_double_backward
CASES = dict(zip(_OPERATORS, layer_cases(SIZES, _tensors, F.linear), strict=True))
