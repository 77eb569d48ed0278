"""Whether a step could be captured in a CUDA graph, seen without a GPU.

The step runs on the device "meta", in the place of a GPU, where tensors have shapes and no numbers: what reads a value
raises by itself. Copies between devices raise here. A copy of numbers from Python (``torch.as_tensor(0.5,
device=...)``) is not announced to dispatch modes, nor to function modes where these are switched off. But its result
shows: no operator has made it. So every tensor that an operator gets must have come out of one, or have been given.

"meta" has no autocast. Under ``FakeTensorMode`` fake CPU tensors stand for those of the GPU, and have the same rules.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sgr_kernels.gpu_path import cpu_as_gpu
from sgr_kernels.operators import registered

aten = torch.ops.aten

# Kernels for CUDA that read a value, of which "meta" says nothing.
_READS_ON_CUDA = {
    aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.index_fill.int_Tensor, aten.index_fill_.int_Tensor,
    aten.multinomial.default,
}  # fmt: skip
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_COPIES = {aten._to_copy.default, aten.copy_.default, aten.where.self}  # that, unlike others, move a number too


class NotCapturable(Exception):
    """What a capture refuses."""


class CaptureCheck(TorchDispatchMode):
    """A context for a step.

    Args:
        given: what was there before: modules, tensors, containers of tensors.

    Raises (inside):
        NotCapturable: names the operator.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__()
        self.known: dict[int, Any] = {}  # storages by address; kept, so that no other one gets it
        self.hidden = _hidden_operators()
        for each in given:
            self._know(_tensors_of(each) if isinstance(each, nn.Module) else each)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.require((args, kwargs), f"{func} gets")
        _refuse(func, args, kwargs)
        if func in self.hidden:
            with self:
                result = self.hidden[func](*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if func is aten.lift_fresh.default and [*_on_device(result)]:
            raise NotCapturable(f"{func} copies numbers from Python")
        self._know(result)
        return result

    def require(self, values: Any, what: str = "there is") -> None:
        """Every tensor must be known. For results, which need not be the argument of any operator."""
        for tensor in _on_device(values):
            if _address(tensor) not in self.known:
                shape = tuple(tensor.shape)
                raise NotCapturable(f"{what} a tensor of shape {shape} that no operator has made: numbers from Python")

    def _know(self, values: Any) -> None:
        for tensor in _on_device(values):
            self.known[_address(tensor)] = tensor.untyped_storage()


def _hidden_operators() -> dict[Callable, Callable]:
    """Operators made of others, which their fakes would hide: what torch knows them as, and what is inside."""
    found: dict[Callable, Callable] = {}
    for operator in registered():
        if operator.composed is not None:
            found |= dict.fromkeys(operator.overloads(), operator.composed)
        elif operator.reference is not None:
            found[operator.overload("reference")] = operator.reference
    return found


def _tensors_of(module: nn.Module) -> list[Tensor]:
    parameters = list(module.parameters())
    return [*parameters, *module.buffers(), *(p.grad for p in parameters if p.grad is not None)]


def _on_device(values: Any) -> Iterator[Tensor]:
    """Tensors on what stands for the GPU."""
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor) and (leaf.device.type != "cpu" or isinstance(leaf, FakeTensor)):
            yield leaf


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _refuse(func: Any, args: tuple, kwargs: dict) -> None:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    devices = {tensor.device.type for tensor in tensors}
    if func is aten._to_copy.default and kwargs.get("device") is not None:
        devices.add(torch.device(kwargs["device"]).type)
    if len(devices) > 1 and not _takes_numbers(func, tensors):
        raise NotCapturable(f"{func} copies between {' and '.join(sorted(devices))}")
    if [*_on_device(tensors)] and _reads(func, args):
        raise NotCapturable(f"{func} reads values")


def _takes_numbers(func: Any, tensors: list[Tensor]) -> bool:
    """Whether what is on the CPU are numbers, which a kernel gets as its arguments."""
    numbers = all(tensor.dim() == 0 for tensor in tensors if tensor.device.type == "cpu")
    return numbers and torch.Tag.pointwise in func.tags and func not in _COPIES


def _reads(func: Any, args: tuple) -> bool:
    if func in _INDEXING:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return func in _READS_ON_CUDA or bool(
        {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
    )


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Inside, tensors are made on what stands for the GPU, and take its path."""
    with torch.device("meta"), cpu_as_gpu():
        yield


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """Inside, a CUDA graph is captured, for all that the package sees, and random streams cannot be read or set."""
    everywhere = [each for name, each in sys.modules.items() if name.startswith("sgr_kernels.")]
    users = [each for each in everywhere if hasattr(each, "is_capturing")]
    assert users, "nobody asks whether a graph is captured"
    refuse = mock.Mock(side_effect=AssertionError("a random stream is read or set during a capture"))
    streams = [
        (each, name) for each in (torch, torch.cuda) for name in ("get_rng_state", "set_rng_state", "manual_seed")
    ]
    with contextlib.ExitStack() as patches:
        for each in users:
            patches.enter_context(mock.patch.object(each, "is_capturing", lambda device: True))
        for each, name in streams:
            patches.enter_context(mock.patch.object(each, name, refuse))
        yield
