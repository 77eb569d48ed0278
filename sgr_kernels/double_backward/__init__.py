"""Functions whose double backward is made of the kernels of an ordinary backward pass, which are fast everywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..checkpointing import recomputing
from ..torch_internals import in_function_transform
from .batch_norm import batch_norm
from .convolutions import conv1d, conv2d, conv3d

_RULES = {F.conv1d: conv1d, F.conv2d: conv2d, F.conv3d: conv3d, F.batch_norm: batch_norm}
_of_torch = False


@contextlib.contextmanager
def differentiated_twice() -> Iterator[None]:
    """A context for the forward pass of what is to be differentiated twice, as delta_now is in Algorithm 1.

    Inside, convolutions (not transposed, padding in numbers) and batch norm (by the statistics of the batch, with
    weight and bias) give what they always give, and so do their derivatives; but their double backward is made of the
    kernels of an ordinary backward pass. On a CPU small tensors, for which that takes longer, compiled code and
    ``torch.func`` transforms are left as they are.

    Raises:
        RuntimeError: in a backward pass, the third derivative of a batch norm is asked for.
    """
    if _of_torch:
        yield
    else:
        with _Functions(), recomputing(lambda: differentiated_twice):
            yield


@contextlib.contextmanager
def derivatives_of_torch() -> Iterator[None]:
    """A double backward as torch has it: to tell what ours is worth."""
    global _of_torch
    before, _of_torch = _of_torch, True
    try:
        yield
    finally:
        _of_torch = before


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        traced = torch.compiler.is_compiling() or in_function_transform()
        return (func if traced else _RULES.get(func, func))(*args, **(kwargs or {}))
