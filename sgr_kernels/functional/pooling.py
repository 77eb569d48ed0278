"""Average pooling over positions, as the heads of local modules have it."""

import math

import torch
from torch import Tensor


def average_positions(x: Tensor) -> Tensor:
    """(B, C, any number of positions) -> (B, C): the mean over all positions; (B, C) stays as it is.

    A sum that is divided, because its gradient is then a view of the one that arrives. torch.mean writes its gradient
    out at every position, and in the first module of a ResNet-50 that is where a step needs most memory.
    """
    if x.dim() == 2:
        return x
    # The sum of a float16 map may be larger than float16 goes, where the mean is not.
    wide = torch.float32 if x.dtype == torch.float16 else x.dtype
    return (x.flatten(2).sum(2, dtype=wide) / math.prod(x.shape[2:])).to(x.dtype)
