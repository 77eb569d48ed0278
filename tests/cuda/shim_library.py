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
CSRC = HERE.parents[1] / "csrc"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SCHEDULES = {"forward": 0, "reverse": 1, "random": 2, "starving": 3}
SEEDED_SCHEDULES = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2), ("starving", 0), ("starving", 1)]
GUARD = 4096  # bytes around everything that kernels write


@dataclass(frozen=True)
class Device:
    """Properties of the simulated device; the defaults are those of an H100. Fields as in shim/machine.h."""

    processors: int = 132
    shared_per_block: int = 227 * 1024
    shared_per_processor: int = 228 * 1024
    reserved_shared: int = 1024
    max_grid: int = 2**31 - 1
    cache: int = 50 << 20
    in_order: int = 0
    schedule: str = "forward"
    seed: int = 0


@dataclass(frozen=True)
class Launch:
    blocks: int
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Traffic:
    """Bytes of global memory, but for single numbers."""

    read: int
    written: int


class _Device(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in list(Device.__dataclass_fields__)[:-1]] + [("seed", ctypes.c_uint)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("shared_bytes", ctypes.c_size_t),
    ]


class _Traffic(ctypes.Structure):
    _fields_ = [("read", ctypes.c_uint64), ("written", ctypes.c_uint64)]


class _Matrix(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("data", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("rows", "cols", "stride")
    ]


def build(sources: list[Path]) -> ctypes.CDLL:
    """Compile for the shim and load. Skips the test where there is no C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    # _FORTIFY_SOURCE takes a longjmp to another stack for an attack.
    flags = "-std=c++17 -O1 -fPIC -shared -U_FORTIFY_SOURCE -fno-strict-aliasing"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libshim.so"
        command = [compiler, *flags.split(), f"-I{HERE / 'shim'}", f"-I{CSRC}", *map(str, sources)]
        command += [str(HERE / "shim" / source) for source in ("machine.cpp", "control.cpp")]
        subprocess.run([*command, "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.shim_failure.restype = ctypes.c_char_p
    return loaded


@functools.cache
def library_of(operator: str) -> ctypes.CDLL:
    return build([HERE / f"launch_{operator}.cpp"])


def assert_same_bits(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def far_apart(rows: Tensor) -> Tensor:
    """A copy of three half-precision rows, 1.2e9 elements apart. The gaps are never touched and take no memory."""
    stride, cols = 1_200_000_007, rows.shape[1]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, (2 * stride + cols) * 2, flags=flags)  # goes with the last tensor that looks at it
    return torch.frombuffer(memory, dtype=rows.dtype).as_strided((3, cols), (stride, 1)).copy_(rows)


def spread(rows: Tensor, stride: int, start: int) -> Tensor:
    """A copy of rows, ``stride`` elements apart, that starts ``start`` elements after an aligned address."""
    memory = torch.full(((len(rows) + 1) * stride,), torch.nan, dtype=rows.dtype)
    return memory.as_strided(rows.shape, (stride, 1), start).copy_(rows)


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


class Simulator:
    """A simulated device. ``launches`` and ``traffic`` are those of the last call."""

    def __init__(self, device: Device | None = None):
        self.device = device or Device()
        self.launches: list[Launch] = []
        self.traffic = Traffic(0, 0)

    def call(self, operator: str, function: str, *arguments) -> None:
        """A function of ``launch_<operator>.cpp``; what lies around its Guarded arguments must not change."""
        library = library_of(operator)
        fields = [getattr(self.device, field) for field, _ in _Device._fields_]
        fields = [SCHEDULES.get(field, field) for field in fields]
        library.shim_set_device(ctypes.byref(_Device(*fields)))
        guarded = [argument for argument in arguments if isinstance(argument, Guarded)]
        status = getattr(library, function)(*(pointer(a.tensor) if isinstance(a, Guarded) else a for a in arguments))
        self.launches = [_launch(library, index) for index in range(library.shim_launches())]
        traffic = _Traffic()
        library.shim_traffic(ctypes.byref(traffic))
        self.traffic = Traffic(traffic.read, traffic.written)
        assert status == 0, library.shim_failure().decode()
        for memory in guarded:
            memory.check()


def matrix(rows: Tensor):
    return ctypes.byref(_Matrix(DTYPES.index(rows.dtype), rows.data_ptr(), *rows.shape, rows.stride(0)))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def wide(delta: Tensor) -> torch.dtype:
    return torch.float64 if delta.dtype == torch.float64 else torch.float32


def _launch(library: ctypes.CDLL, index: int) -> Launch:
    launch = _Launch()
    library.shim_launch(index, ctypes.byref(launch))
    return Launch(*(getattr(launch, name) for name, _ in _Launch._fields_))
