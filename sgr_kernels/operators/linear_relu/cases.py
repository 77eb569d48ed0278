"""What linear_relu, its backward and its double backward are checked and timed on."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..common.cases import Inputs, Size
from ..common.relu_layer_cases import layer_cases

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


FORWARD, BACKWARD, DOUBLE_BACKWARD = layer_cases(SIZES, _tensors, F.linear)
