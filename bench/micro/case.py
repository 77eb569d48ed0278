"""What is measured: one operator in one mode at one size, in every way there is to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgr_kernels.operators import Operator

Results = tuple[Tensor, ...]
Run = Callable[[], Results]


class Way(NamedTuple):
    """One provider of a case.

    Attributes:
        make: everything that comes before the run that is measured, and that run: forward passes of a backward one,
            compilation.
        truth: its results in float64.
    """

    make: Callable[[], Run]
    truth: Run


class Case(NamedTuple):
    """One operator in one mode at one size.

    Attributes:
        ways: by the name of the provider.
        plain: which of them is the plain torch computation in the dtype of the case; its error is what others are
            measured by.
        bytes: what every implementation has to read and to write.
        flops: of the products that every implementation has to compute.
    """

    ways: dict[str, Way]
    plain: str
    bytes: int
    flops: int = 0


class Op(NamedTuple):
    """An operator.

    Attributes:
        modes: in the order of the rows.
        inputs: from shape, dtype and device to what all modes of one size share.
        case: from mode and inputs.
        operators: what is measured; the first one has the sizes.
    """

    modes: tuple[str, ...]
    inputs: Callable[[tuple[int, ...], torch.dtype, str], Any]
    case: Callable[[str, Any], Case]
    operators: tuple[Operator, ...]


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)
