"""The gate, the shift and the cross entropy on the simulated device."""

from __future__ import annotations

import ctypes
import functools

import torch
from shim_library import DTYPES, Guarded, Machine, library_of, pointer, row_pair, wide
from torch import Tensor


class _Tensors(ctypes.Structure):
    _fields_ = (
        [("dtype", ctypes.c_int)]
        + [(name, ctypes.c_void_p) for name in ("grad", "output")]
        + [(name, ctypes.c_int64) for name in ("rows", "channels", "size")]
    )


class _Logits(ctypes.Structure):
    _fields_ = (
        [("dtype", ctypes.c_int)]
        + [(name, ctypes.c_void_p) for name in ("logits", "labels")]
        + [(name, ctypes.c_int64) for name in ("rows", "cols", "stride")]
    )


@functools.cache
def _kernels() -> ctypes.CDLL:
    library = library_of(ReluBlockMachine.source)
    library.relu_backward_doubles.restype = ctypes.c_int64
    library.loss_doubles.restype = ctypes.c_int64
    library.loss_doubles.argtypes = [ctypes.c_int64]
    return library


class ReluBlockMachine(Machine):
    """The operators of a ReLU block; ``offset`` is that of the result, in elements."""

    source = "launch_relu_block.cpp"

    def relu_backward(self, grad: Tensor, output: Tensor, sum_channels: bool, offset: int = 0) -> tuple[Tensor, Tensor]:
        tensors = _Tensors(DTYPES.index(grad.dtype), grad.data_ptr(), output.data_ptr(), *grad.shape)
        masked = Guarded(tuple(grad.shape), grad.dtype, offset)
        if not sum_channels:
            self._call("relu_backward", ctypes.byref(tensors), masked, None, None)
            return masked.tensor, torch.empty(0, dtype=wide(grad))
        doubles = _kernels().relu_backward_doubles(ctypes.byref(tensors), pointer(masked.tensor))
        partial, sums = Guarded((doubles,), torch.float64), Guarded((grad.shape[1],), wide(grad))
        self._call("relu_backward", ctypes.byref(tensors), masked, partial, sums)
        return masked.tensor, sums.tensor

    def sgr_shift(
        self, x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float, offset: int = 0
    ) -> Tensor:
        out, stride = Guarded(tuple(x.shape), x.dtype, offset), ctypes.c_int64(x.stride(0))
        coefficients = pointer(alpha), pointer(beta), ctypes.c_double(factor)
        self._call("shift", ctypes.byref(row_pair(delta, target)), pointer(x), stride, *coefficients, out)
        return out.tensor

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        work = Guarded((_kernels().loss_doubles(len(logits)),), torch.float64)
        loss, gradient = Guarded((), wide(logits)), Guarded(tuple(logits.shape), wide(logits))
        self._call("cross_entropy", ctypes.byref(_logits(logits, labels)), work, loss, gradient)
        return loss.tensor, gradient.tensor

    def cross_entropy_hvp(self, logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        out, stride = Guarded(tuple(logits.shape), wide(logits)), ctypes.c_int64(tangent.stride(0))
        self._call("cross_entropy_hvp", ctypes.byref(_logits(logits, labels)), pointer(tangent), stride, out)
        return out.tensor


def _logits(logits: Tensor, labels: Tensor) -> _Logits:
    return _Logits(DTYPES.index(logits.dtype), logits.data_ptr(), labels.data_ptr(), *logits.shape, logits.stride(0))
