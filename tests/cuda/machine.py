"""The operators on a simulated device."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch
from shim_library import DTYPES, Device, Guarded, Simulator, library_of, matrix, pointer, wide
from torch import Tensor


@dataclass(frozen=True)
class Options:
    normalize: bool = True
    reduction: str = "mean"
    floor: float | Tensor = 0.0
    eps: float = 1e-12


class _Settings(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int) for name in ("normalize", "reduction")]
        + [(name, ctypes.c_double) for name in ("floor", "eps")]
        + [("floor_pointer", ctypes.c_void_p)]
    )


class _Tensors(ctypes.Structure):
    _fields_ = (
        [("dtype", ctypes.c_int)]
        + [(name, ctypes.c_void_p) for name in ("grad", "output", "masked")]
        + [(name, ctypes.c_int64) for name in ("rows", "channels", "size")]
    )


class _Elements(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("slope", ctypes.c_double),
    ]


class _Chip(ctypes.Structure):
    _fields_ = [
        ("processors", ctypes.c_int),
        ("shared_per_processor", ctypes.c_int),
        ("shared_per_block", ctypes.c_int),
        ("reserved", ctypes.c_int),
    ]


class OnChip(ctypes.Structure):
    """How sgr_residual gives rows to blocks; blocks = 0: they do not fit."""

    _fields_ = [
        ("slice", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("threads", ctypes.c_int),
        ("shared_bytes", ctypes.c_size_t),
    ]


class Turns(ctypes.Structure):
    """How sgr_residual cuts rows that the L2 cache keeps."""

    _fields_ = [
        ("pieces", ctypes.c_int),
        ("slice", ctypes.c_int),
        ("rows", ctypes.c_int64),
        ("ahead", ctypes.c_int64),
    ]


class Turn(ctypes.Structure):
    """What a block does."""

    _fields_ = [("summing", ctypes.c_bool), ("row", ctypes.c_int64), ("piece", ctypes.c_int64)]


def plan(device: Device, rows: int, cols: int, dtype: torch.dtype = torch.float32) -> OnChip:
    """That of rows whose sums take one sweep."""
    chip = _Chip(
        device.processors,
        device.shared_per_processor,
        device.shared_per_block,
        device.reserved_shared,
    )
    found, size = OnChip(), [ctypes.c_int64(number) for number in (rows, cols)]
    library_of("sgr_loss").plan(DTYPES.index(dtype), *size, ctypes.byref(chip), ctypes.byref(found))
    return found


def turns(device: Device, rows: int, cols: int, dtype: torch.dtype = torch.float32) -> Turns:
    found, numbers = Turns(), [ctypes.c_int64(number) for number in (rows, cols, device.cache)]
    library_of("sgr_loss").turns(DTYPES.index(dtype), *numbers, ctypes.byref(found))
    return found


def turn_of(block: int, turns: Turns) -> Turn:
    found = Turn()
    library_of("sgr_loss").turn(ctypes.c_int64(block), ctypes.byref(turns), ctypes.byref(found))
    return found


class Machine(Simulator):
    """``offset`` is that of the result, in elements. In place, x must be the tensor of a Guarded."""

    def sgr_loss(self, delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        coef, loss = Guarded((4, len(delta)), torch.float64), Guarded((), wide(delta))
        self.call("sgr_loss", "sgr_loss", matrix(delta), matrix(target), _settings(options), coef, loss)
        return loss.tensor, coef.tensor

    def sgr_loss_backward(
        self, grad_loss: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, offset: int = 0
    ) -> Tensor:
        out = Guarded(tuple(delta.shape), delta.dtype, offset)
        numbers = map(pointer, (grad_loss, alpha, beta))
        self.call("sgr_loss", "sgr_loss_backward", matrix(delta), matrix(target), *numbers, out)
        return out.tensor

    def sgr_residual(self, delta: Tensor, target: Tensor, options: Options, offset: int = 0) -> tuple[Tensor, Tensor]:
        self.device = replace(self.device, in_order=1)  # it takes that for granted
        loss, v = Guarded((), wide(delta)), Guarded(tuple(delta.shape), wide(delta), offset)
        self.call("sgr_loss", "sgr_residual", matrix(delta), matrix(target), _settings(options), loss, v)
        return loss.tensor, v.tensor

    def sgr_residual_again(
        self, before: Tensor, delta: Tensor, target: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        """That of delta and target by a captured launch that ran with the rows ``before``."""
        self.device = replace(self.device, in_order=1)
        loss, v = Guarded((), wide(delta)), Guarded(tuple(delta.shape), wide(delta))
        rows = map(matrix, (before, delta, target))
        self.call("sgr_loss", "sgr_residual_again", *rows, _settings(options), loss, v)
        return loss.tensor, v.tensor

    def sgr_shift(
        self, x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, factor: float, offset: int = 0
    ) -> Tensor:
        out = Guarded(tuple(x.shape), x.dtype, offset)
        coefficients = pointer(alpha), pointer(beta), ctypes.c_double(factor)
        self.call("sgr_shift", "sgr_shift", *map(matrix, (delta, target, x)), *coefficients, out)
        return out.tensor

    def row_norms(self, rows: Tensor) -> Tensor:
        norms = Guarded((len(rows),), torch.float64)
        self.call("row_norms", "row_norms", matrix(rows), norms)
        return norms.tensor

    def sgr_step_length(
        self, loss: Tensor, coef: Tensor, x: Tensor, delta: Tensor, output, delta_output, *law: float
    ) -> tuple[Tensor, Tensor]:
        inverse, step = Guarded((), torch.float64), Guarded((2, len(x)), torch.float64)
        norms = [None if each is None else self.row_norms(each) for each in (x, delta, output, delta_output)]
        tensors = [None if each is None else pointer(each) for each in (loss, coef, *norms)]
        sizes = [ctypes.c_int64(0 if each is None else len(each)) for each in (x, output)]
        numbers = (ctypes.c_double * 5)(*law)
        dtype = DTYPES.index(loss.dtype)
        self.call("sgr_step_length", "sgr_step_length", dtype, *tensors, *sizes, numbers, inverse, step)
        return inverse.tensor, step.tensor

    def relu_backward(self, grad: Tensor, output: Tensor, sum_channels: bool, offset: int = 0) -> tuple[Tensor, Tensor]:
        masked = Guarded(tuple(grad.shape), grad.dtype, offset)
        pointers = grad.data_ptr(), output.data_ptr(), masked.tensor.data_ptr()
        tensors = ctypes.byref(_Tensors(DTYPES.index(grad.dtype), *pointers, *grad.shape))
        sums = Guarded((grad.shape[1] if sum_channels else 0,), wide(grad))
        self.call("relu_backward", "relu_backward", tensors, sums if sum_channels else None)
        masked.check()
        return masked.tensor, sums.tensor

    def record_relu(self, x: Tensor, slope: float, offset: int = 0) -> tuple[Tensor, Tensor]:
        y = Guarded(tuple(x.shape), x.dtype, offset)
        bits = self.record_into(y, x, slope)
        return y.tensor, bits

    def record_into(self, y: Guarded, x: Tensor, slope: float) -> Tensor:
        bits = Guarded(((len(x) + 7) // 8,), torch.uint8)
        self.call("gate_bits", "record_relu", _elements(x, y, slope), bits)
        y.check()
        return bits.tensor

    def replay_relu(self, x: Tensor, bits: Tensor, slope: float, offset: int = 0) -> Tensor:
        y = Guarded(tuple(x.shape), x.dtype, offset)
        self.replay_into(y, x, bits, slope)
        return y.tensor

    def replay_into(self, y: Guarded, x: Tensor, bits: Tensor, slope: float) -> None:
        self.call("gate_bits", "replay_relu", _elements(x, y, slope), pointer(bits))
        y.check()

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = Guarded((), wide(logits)), Guarded(tuple(logits.shape), wide(logits))
        self.call("cross_entropy", "cross_entropy", matrix(logits), pointer(labels), loss, gradient)
        return loss.tensor, gradient.tensor

    def cross_entropy_hvp(self, logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        out = Guarded(tuple(logits.shape), wide(logits))
        self.call("cross_entropy", "cross_entropy_hvp", matrix(logits), pointer(labels), matrix(tangent), out)
        return out.tensor


def _settings(options: Options):
    tensor = options.floor if isinstance(options.floor, Tensor) else None
    reduction = ("mean", "batchmean", "sum").index(options.reduction)
    number = -1.0 if tensor is not None else options.floor
    address = None if tensor is None else tensor.data_ptr()
    return ctypes.byref(_Settings(options.normalize, reduction, number, options.eps, address))


def _elements(x: Tensor, y: Guarded, slope: float):
    return ctypes.byref(_Elements(DTYPES.index(x.dtype), x.data_ptr(), y.tensor.data_ptr(), len(x), slope))
