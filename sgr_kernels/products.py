"""What convolutions and matrix products round their float32 operands to.

On a GPU convolutions multiply in TF32 unless that is switched off, so dtypes alone do not tell how exact a pass is.
What is permitted counts, whether or not this processor makes use of it.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch

from .torch_internals import autocast_is_on

# torch has a setting for each kind of function.
CONVOLUTION, MATRIX, RECURRENT = KINDS = ("conv", "matmul", "rnn")
_CUDA = {"conv": torch.backends.cudnn.conv, "matmul": torch.backends.cuda.matmul, "rnn": torch.backends.cudnn.rnn}
_MKLDNN = {kind: getattr(torch.backends.mkldnn, kind) for kind in KINDS}
_SETTINGS = {"cuda": _CUDA, "cpu": _MKLDNN, "xpu": _MKLDNN}
_SPACINGS = {"ieee": torch.finfo(torch.float32).eps, "tf32": 2.0**-10, "bf16": torch.finfo(torch.bfloat16).eps}


def rounding_of_products(device: str, kind: str) -> str:
    """ "ieee" (not at all), "tf32" (to 10 bits of mantissa) or "bf16".

    Args:
        device: type of the device, as "cuda".
        kind: one of ``KINDS``.
    """
    setting = _SETTINGS.get(device, {}).get(kind)
    # A setting gives what it inherits where it is not set itself, and "none" where nothing is set.
    rounding = "none" if setting is None else setting.fp32_precision
    return "ieee" if rounding == "none" else rounding


class Spacing(NamedTuple):
    """Relative spacing of the numbers of a pass, the coarsest that take part: as tensors hold them, and products."""

    tensors: float
    products: float

    @property
    def coarsest(self) -> float:
        return max(self)


def spacing_of(device: str, dtypes: Iterable[torch.dtype], kinds: Iterable[str]) -> Spacing:
    """Of a pass over tensors of these dtypes, and of that of autocast.

    Args:
        device: type of the device, as "cuda".
        kinds: of ``KINDS``, those of the products that take part.
    """
    found = {dtype for dtype in set(dtypes) if dtype.is_floating_point}
    if autocast_is_on() and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        found.add(torch.get_autocast_dtype(device))
    kinds = set(kinds) if torch.float32 in found else ()
    products = max([_SPACINGS[rounding_of_products(device, kind)] for kind in kinds], default=0.0)
    return Spacing(max(map(_spacing, found)), products)


@functools.cache
def _spacing(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps
