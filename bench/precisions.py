"""The precisions that networks run in: autocast, and float32 whose products are exact or round as a GPU's do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = ("float32", "TF32", *_AUTOCAST)

# torch has two styles. Setting the newer does not change what the older says, and torch.compile, which asks the older,
# raises where the two disagree: it is the one to set where there is one.
_SETTINGS = {
    "cuda": ((torch.backends.cudnn, torch.backends.cuda.matmul), "allow_tf32"),
    "cpu": ((torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul), "fp32_precision"),
}

_aten = torch.ops.aten
_PRODUCTS = {_aten.convolution, _aten.convolution_backward, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm}
_DROPPED = 13  # of the 23 bits of the mantissa of float32, TF32 has 10


@contextlib.contextmanager
def in_precision(precision: str, device: str) -> Iterator[None]:
    """Runs what is inside in one of ``PRECISIONS``. A CPU multiplies in TF32 only where that is emulated."""
    with contextlib.ExitStack() as inside:
        inside.enter_context(products_in("tf32" if precision == "TF32" else "ieee", device))
        if precision == "TF32" and device == "cpu":
            inside.enter_context(RoundedProducts())
        if precision in _AUTOCAST:
            inside.enter_context(torch.autocast(device, _AUTOCAST[precision]))
        yield


@contextlib.contextmanager
def products_in(rounding: str, device: str) -> Iterator[None]:
    """Permits float32 convolutions and matrix products to round to "tf32", or "ieee", inside."""
    settings, attribute = _SETTINGS.get(device, _SETTINGS["cpu"])
    before = [getattr(setting, attribute) for setting in settings]
    try:
        for setting in settings:
            setattr(setting, attribute, rounding == "tf32" if attribute == "allow_tf32" else rounding)
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setattr(setting, attribute, value)


class RoundedProducts(TorchDispatchMode):
    """Rounds the float32 operands of convolutions and matrix products, in every pass, to the mantissa of TF32."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _PRODUCTS:
            args = tree_map_only(Tensor, rounded_to_tf32, args)
        return func(*args, **(kwargs or {}))


def rounded_to_tf32(tensor: Tensor) -> Tensor:
    """To the nearest, ties to even; still float32."""
    if tensor.dtype != torch.float32:
        return tensor
    bits = tensor.view(torch.int32)
    odd = (bits >> _DROPPED) & 1
    rounded = (bits + (2 ** (_DROPPED - 1) - 1) + odd) & -(2**_DROPPED)
    return torch.where(tensor.isfinite(), rounded.view(torch.float32), tensor)
