"""The CUDA kernels compiled for the CPU by the host compiler, and their launchers called on CPU tensors."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "csrc" / "include"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SCHEDULES = {"forward": 0, "reverse": 1, "random": 2, "starving": 3}
GUARD = 4096  # bytes around everything that kernels write


@dataclass(frozen=True)
class Device:
    """Properties of the simulated device; the defaults are those of an H100. Fields as in shim/machine.h."""

    capability: int = 90
    code_capability: int = 90
    shared_per_block: int = 227 * 1024
    shared_per_processor: int = 228 * 1024
    reserved_shared: int = 1024
    max_grid: int = 2**31 - 1
    largest_cluster: int = 16
    schedule: str = "forward"
    seed: int = 0


@dataclass(frozen=True)
class Launch:
    blocks: int
    threads: int
    cluster: int
    shared_bytes: int


@dataclass(frozen=True)
class Options:
    normalize: bool = True
    reduction: str = "mean"
    floor: float | Tensor = 0.0
    eps: float = 1e-12


class _Device(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in list(Device.__dataclass_fields__)[:-1]] + [("seed", ctypes.c_uint)]


class _Launch(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("blocks", "threads", "cluster")] + [
        ("shared_bytes", ctypes.c_size_t)
    ]


class _Input(ctypes.Structure):
    _fields_ = (
        [("dtype", ctypes.c_int)]
        + [(name, ctypes.c_void_p) for name in ("delta", "target")]
        + [(name, ctypes.c_int64) for name in ("rows", "cols", "delta_stride", "target_stride")]
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int) for name in ("normalize", "reduction")]
        + [(name, ctypes.c_double) for name in ("floor", "eps")]
        + [("floor_tensor", ctypes.c_void_p)]
    )


def build(sources: list[Path], include: Path = INCLUDE) -> ctypes.CDLL:
    """Compile for the shim and load. Skips the test where there is no C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    # _FORTIFY_SOURCE takes a longjmp to another stack for an attack.
    flags = "-std=c++17 -O1 -fPIC -shared -U_FORTIFY_SOURCE -fno-strict-aliasing"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libshim.so"
        command = [compiler, *flags.split(), f"-I{HERE / 'shim'}", f"-I{include}", *map(str, sources)]
        command += [str(HERE / "shim" / source) for source in ("machine.cpp", "control.cpp")]
        subprocess.run([*command, "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.shim_failure.restype = ctypes.c_char_p
    return loaded


@functools.cache
def library_of(source: str) -> ctypes.CDLL:
    return build([HERE / source])


@functools.cache
def kernels() -> ctypes.CDLL:
    library = library_of(Machine.source)
    library.workspace_doubles.restype = ctypes.c_int64
    library.workspace_doubles.argtypes = [ctypes.c_int64, ctypes.c_int64]
    library.on_chip_bytes.restype = ctypes.c_int64
    library.on_chip_bytes.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    return library


def on_chip_bytes(delta: Tensor, parts: int) -> int:
    """Shared memory of a block when sgr_residual spreads a row over ``parts`` blocks."""
    return kernels().on_chip_bytes(DTYPES.index(delta.dtype), delta.shape[1], parts)


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def far_apart(rows: Tensor) -> Tensor:
    """A copy of three half-precision rows, 1.2e9 elements apart. The gaps are never touched and take no memory."""
    stride, cols = 1_200_000_007, rows.shape[1]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, (2 * stride + cols) * 2, flags=flags)  # goes with the last tensor that looks at it
    return torch.frombuffer(memory, dtype=rows.dtype).as_strided((3, cols), (stride, 1)).copy_(rows)


class Guarded:
    """An output of exactly the size asked for, full of NaN, in the middle of memory that must not change."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0):
        count = int(torch.Size(shape).numel())
        size = torch.empty((), dtype=dtype).element_size()
        self._bytes = torch.full((2 * GUARD + (count + offset) * size,), 0xA5, dtype=torch.uint8)
        self._first, self._last = GUARD + offset * size, GUARD + (offset + count) * size
        self._bytes[self._first : self._last] = 0xFF
        self.tensor = self._bytes[self._first : self._last].view(dtype).view(shape)

    def check(self) -> Tensor:
        outside = torch.cat((self._bytes[: self._first], self._bytes[self._last :]))
        assert bool((outside == 0xA5).all()), "write outside of an output"
        return self.tensor


class Machine:
    """The operators on a simulated device. ``launches`` are those of the last call."""

    source = "launch.cpp"

    def __init__(self, device: Device | None = None):
        self.device = device or Device()
        self.launches: list[Launch] = []

    def sgr_loss(self, delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        loss, coef = Guarded((), wide(delta)), Guarded((3, len(delta)), torch.float64)
        self._call("loss", *_arguments(delta, target, options), coef=coef, loss=loss)
        return loss.tensor, coef.tensor

    def sgr_loss_backward(
        self, grad_loss: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor, offset: int = 0
    ) -> Tensor:
        out = Guarded(tuple(delta.shape), delta.dtype, offset)
        arguments = [ctypes.byref(row_pair(delta, target)), *map(pointer, (grad_loss, alpha, beta))]
        self._call("backward", *arguments, out=out)
        return out.tensor

    def sgr_residual(self, delta: Tensor, target: Tensor, options: Options, offset: int = 0) -> tuple[Tensor, Tensor]:
        loss, v = Guarded((), wide(delta)), Guarded(tuple(delta.shape), wide(delta), offset)
        self._call("residual", *_arguments(delta, target, options), loss=loss, v=v)
        return loss.tensor, v.tensor

    def _call(self, name: str, *arguments, **outputs: Guarded) -> None:
        library = library_of(self.source)
        fields = [getattr(self.device, field) for field, _ in _Device._fields_]
        fields = [SCHEDULES.get(field, field) for field in fields]
        library.shim_set_device(ctypes.byref(_Device(*fields)))
        arguments += tuple(outputs.values())
        guarded = [argument for argument in arguments if isinstance(argument, Guarded)]
        status = getattr(library, name)(*(pointer(a.tensor) if isinstance(a, Guarded) else a for a in arguments))
        self.launches = [_launch(library, index) for index in range(library.shim_launches())]
        assert status == 0, f"CUDA error {status}: {library.shim_failure().decode()}"
        for memory in guarded:
            memory.check()


def _arguments(delta: Tensor, target: Tensor, options: Options) -> tuple:
    work = Guarded((kernels().workspace_doubles(*delta.shape),), torch.float64)
    return ctypes.byref(row_pair(delta, target)), ctypes.byref(_settings(options)), work


def row_pair(delta: Tensor, target: Tensor) -> _Input:
    pointers = delta.data_ptr(), target.data_ptr()
    return _Input(DTYPES.index(delta.dtype), *pointers, *delta.shape, delta.stride(0), target.stride(0))


def _settings(options: Options) -> _Settings:
    tensor = options.floor if isinstance(options.floor, Tensor) else None
    reduction = ("mean", "batchmean", "sum").index(options.reduction)
    number = -1.0 if tensor is not None else options.floor
    return _Settings(options.normalize, reduction, number, options.eps, None if tensor is None else tensor.data_ptr())


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def wide(delta: Tensor) -> torch.dtype:
    return torch.float64 if delta.dtype == torch.float64 else torch.float32


def _launch(library: ctypes.CDLL, index: int) -> Launch:
    launch = _Launch()
    library.shim_launch(index, ctypes.byref(launch))
    return Launch(*(getattr(launch, name) for name, _ in _Launch._fields_))
