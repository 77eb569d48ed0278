"""Every kernel compiles for every GPU generation, without register spills and with wide loads. Needs no GPU.

The host functions are run on meta tensors with recorders in the place of the kernels. What they would have launched is
compiled ahead of time, with the specialisation that a launch would have chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton.language")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, CompiledKernel  # noqa: E402

from sgr_kernels.triton import sgr_loss as kernels  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles where kernels are interpreted"
)

CAPABILITIES = (80, 90, 100)
TYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
SHAPES = (
    (64, 100),  # short rows
    (128, 4096),  # the longest rows that stay in registers in float64,
    (128, 16384),  # and in all other types
    (1, 50_000_000),  # one row, many programs
    (5000, 2049),  # unaligned rows, and so many that their losses are added up separately
    (2, 3_000_000_000),  # more than 2^31 elements
)


class Recorder:
    def __init__(self, kernel, launches: list):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


def find_kernels() -> dict[str, triton.JITFunction]:
    """Whatever the module launches: jit functions that no other jit function calls."""
    functions = {name: value for name, value in vars(kernels).items() if isinstance(value, triton.JITFunction)}
    called = {name for function in functions.values() for name in re.findall(r"(\w+)\(", function.src)[1:]}
    return {name: function for name, function in functions.items() if name not in called}


KERNELS = find_kernels()


def launches(monkeypatch, dtype, shapes=SHAPES) -> list:
    recorded: list = []
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernels, name, Recorder(kernel, recorded))
    for shape in shapes:
        rows = torch.empty(shape, dtype=dtype, device="meta")
        for normalize in (True, False):
            floor = torch.empty((), dtype=torch.float64, device="meta") if normalize else None
            loss, coef = kernels.sgr_loss(rows, rows, normalize, 0, 0.1, floor, 1e-12)
            kernels.sgr_loss_backward(loss, rows, rows, coef[0], coef[1])
            kernels.sgr_residual(rows, rows, normalize, 0, 0.1, floor, 1e-12)
    rows = torch.empty((128, 4096), dtype=dtype, device="meta")
    kernels.sgr_loss(rows, rows, True, 0, 0.1, None, 1e-12)
    kernels.sgr_residual(rows, rows, True, 0, 0.1, None, 1e-12)
    return recorded


def source(kernel, args, kwargs) -> tuple[ASTSource, dict]:
    """What triton's launcher makes of the arguments, and the options among them."""
    bound = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    options = {name: bound.pop(name) for name in kwargs if name not in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = bound[parameter.name]
        specialised = isinstance(value, int) and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and value == 1):
            signature[parameter.name], constants[index,] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type or "fp32"
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (specialised and value % 16 == 0):
            attributes[index,] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes), options


def compiled(recorded: list, capability: int) -> Iterator[tuple[str, CompiledKernel]]:
    """All different launches, compiled."""
    different = {}
    for launch in recorded:
        ast, options = source(*launch)
        different[ast.hash() + str(options)] = ast, options
    for ast, options in different.values():
        yield ast.name, triton.compile(ast, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.fixture(autouse=True)
def _compile_afresh(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_DUMP_PTXAS_LOG", "1")


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_kernels_compile_without_spills(monkeypatch, capsys, dtype, capability):
    for name, _ in compiled(launches(monkeypatch, dtype), capability):
        log = capsys.readouterr().out
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
        assert spills, f"no report on {name} from ptxas: {log}"
        assert set(spills) == {"0"}, f"{name}: {log}"


def test_every_kernel_is_compiled(monkeypatch):
    recorded = [launch for dtype in TYPES for launch in launches(monkeypatch, dtype)]
    assert {kernel.__name__ for kernel, _, _ in recorded} == set(KERNELS) != set()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_aligned_rows_are_loaded_16_bytes_at_a_time(monkeypatch, dtype):
    recorded = [launch for launch in launches(monkeypatch, dtype, [(64, 4096)]) if "delta" in launch[0].arg_names]
    assert len({kernel.__name__ for kernel, _, _ in recorded}) >= 3
    for name, kernel in compiled(recorded, 90):
        loads = re.findall(r"ld\.global\S*", kernel.asm["ptx"])
        wide = [load for load in loads if re.search(r"v4\.[bf]32|v2\.[bf]64", load)]
        # Loads of single values fetch coefficients; rows would take eight and more of them.
        assert len(wide) >= 2, (name, loads)
        assert len(loads) - len(wide) <= 3, (name, loads)
