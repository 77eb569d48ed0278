"""Recorded gates on the simulated device."""

from __future__ import annotations

import ctypes

import torch
from shim_library import DTYPES, Guarded, Machine, pointer
from torch import Tensor


class _Elements(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("slope", ctypes.c_double),
    ]


class GateBitsMachine(Machine):
    """The operators; ``offset`` is that of the result, in elements. In place, x must be the tensor of a Guarded."""

    source = "launch_gate_bits.cpp"

    def record_relu(self, x: Tensor, slope: float, offset: int = 0) -> tuple[Tensor, Tensor]:
        y = Guarded(tuple(x.shape), x.dtype, offset)
        bits = self.record_into(y, x, slope)
        return y.tensor, bits

    def record_into(self, y: Guarded, x: Tensor, slope: float) -> Tensor:
        bits = Guarded(((len(x) + 7) // 8,), torch.uint8)
        self._call("record_relu", _elements(x, y, slope), bits)
        y.check()
        return bits.tensor

    def replay_relu(self, x: Tensor, bits: Tensor, slope: float, offset: int = 0) -> Tensor:
        y = Guarded(tuple(x.shape), x.dtype, offset)
        self.replay_into(y, x, bits, slope)
        return y.tensor

    def replay_into(self, y: Guarded, x: Tensor, bits: Tensor, slope: float) -> None:
        self._call("replay_relu", _elements(x, y, slope), pointer(bits))
        y.check()


def _elements(x: Tensor, y: Guarded, slope: float):
    return ctypes.byref(_Elements(DTYPES.index(x.dtype), x.data_ptr(), y.tensor.data_ptr(), len(x), slope))
