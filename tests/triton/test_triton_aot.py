"""Every kernel compiles for every GPU generation, without register spills and with wide loads. Needs no GPU.

The host functions are run on meta tensors with recorders in the place of the kernels. What they would have launched is
compiled ahead of time, with the specialisation that a launch would have chosen.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("triton.language")

import triton  # noqa: E402
from helpers import version_of  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, CompiledKernel  # noqa: E402

from sgr_kernels.triton import (  # noqa: E402
    cross_entropy,
    gate_bits,
    linear_relu_sgr,
    relu_backward,
    sgr_loss,
    sgr_shift,
)

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles where kernels are interpreted"
)

CAPABILITIES = (80, 90, 100)
TYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
POINTERS = TYPES | {torch.int64: "i64", torch.uint8: "u8"}
# Bytes. The assembler of older versions spills a few to fit in one more program.
SPILLS = 0 if version_of("triton") >= (3, 7) else 8
SMALL_SHARED_MEMORY = 99 * 1024  # bytes of a program, on the GPUs that have least


# --- what the host functions launch -----------------------------------------------------------------------------------


def meta(*shape, dtype=torch.float64):
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_sgr_loss(dtype):
    for shape in (
        (64, 100),  # short rows
        (128, 4096),  # the longest rows that stay in registers in float64,
        (128, 16384),  # and in all other types
        (1, 50_000_000),  # one row, many programs
        (5000, 2049),  # unaligned rows, and so many that their losses are added up separately
        (2, 3_000_000_000),  # more than 2^31 elements
    ):
        launch_sgr_loss_on(meta(*shape, dtype=dtype))
    rows = meta(128, 4096, dtype=dtype)
    sgr_loss.sgr_loss(rows, rows, True, 0, 0.1, None, 1e-12)
    sgr_loss.sgr_residual(rows, rows, True, 0, 0.1, None, 1e-12)


def launch_sgr_loss_on(rows):
    for normalize in (True, False):
        options = (normalize, 0, 0.1, meta() if normalize else None, 1e-12)
        loss, coef = sgr_loss.sgr_loss(rows, rows, *options)
        sgr_loss.sgr_loss_backward(loss, rows, rows, coef[0], coef[1])
        sgr_loss.sgr_residual(rows, rows, *options)


def launch_relu_backward(dtype):
    for shape in (
        (8192, 4096, 1),  # a linear layer
        (50000, 10, 1),  # few channels, unaligned
        (128, 64, 3136),  # images
        (128, 2048, 49),  # small ones, unaligned
        (300_000, 10_000, 1),  # more than 2^31 elements
    ):
        grad = meta(*shape, dtype=dtype)
        relu_backward.relu_backward(grad, grad, True)
    relu_backward.relu_backward(grad, grad, False)


def launch_sgr_shift(dtype):
    for shape in (64, 100), (128, 4096), (5000, 2049), (2, 3_000_000_000):
        launch_sgr_shift_on(meta(*shape, dtype=dtype))


def launch_sgr_shift_on(rows):
    coefficients = meta(len(rows))
    sgr_shift.sgr_shift(rows, rows, rows, coefficients, coefficients, 0.5)


def launch_cross_entropy(dtype):
    for shape in (128, 10), (256, 1000), (8192, 32768):
        launch_cross_entropy_on(meta(*shape, dtype=dtype))


def launch_cross_entropy_on(logits):
    labels = meta(len(logits), dtype=torch.int64)
    _, gradient = cross_entropy.cross_entropy(logits, labels)
    cross_entropy.cross_entropy_hvp(logits, labels, gradient)


def launch_gate_bits(dtype):
    for n in (1_000_000, 100_003, 3_000_000_000):
        launch_gate_bits_on(meta(n, dtype=dtype))


def launch_gate_bits_on(x):
    bits = gate_bits.record_relu_(x, 0.0)
    gate_bits.replay_relu_(x, bits, 0.0)


def launch_linear_relu_sgr(dtype):
    """Aligned and large, aligned with ends, unaligned, far apart; float32 on tensor cores and without."""
    if dtype == torch.float64:
        return
    for tf32 in (True, False) if dtype == torch.float32 else (True,):
        with allow_tf32(tf32):
            launch_products(8192, 4096, 4096, dtype, normalize=True)
            launch_products(250, 333, 301, dtype, normalize=False)
            if tf32:
                launch_products(200, 1008, 1008, dtype, normalize=True)
                launch_products(4096, 4096, 4096, dtype, normalize=True, apart=2**25)


def launch_products(batch, m, n, dtype, normalize, apart=None):
    grad, weight, rows = meta(batch, m, dtype=dtype), meta(m, n, dtype=dtype), meta(batch, n, dtype=dtype)
    if apart is not None:
        grad, rows = grad.as_strided(grad.shape, (apart, 1)), rows.as_strided(rows.shape, (apart, 1))
    options = (normalize, 0, 0.1, None, 1e-12)
    delta, _, coef = linear_relu_sgr.linear_relu_delta(grad, grad, weight, rows, *options)
    linear_relu_sgr.linear_relu_weight_grad(grad, grad, rows, delta, rows, coef[0], coef[1], 0.5, normalize)


@contextlib.contextmanager
def allow_tf32(allowed: bool):
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before


MODULES = {
    sgr_loss: launch_sgr_loss,
    relu_backward: launch_relu_backward,
    sgr_shift: launch_sgr_shift,
    cross_entropy: launch_cross_entropy,
    gate_bits: launch_gate_bits,
    linear_relu_sgr: launch_linear_relu_sgr,
}
ALIGNED = {  # rows of 4096 elements, to kernels that go along them
    sgr_loss: launch_sgr_loss_on,
    sgr_shift: launch_sgr_shift_on,
    cross_entropy: launch_cross_entropy_on,
    gate_bits: lambda rows: launch_gate_bits_on(rows.flatten()),
    relu_backward: lambda rows: [
        relu_backward.relu_backward(rows.view(shape), rows.view(shape), True) for shape in ((64, 4096, 1), (8, 8, 4096))
    ],
}


# --- from a launch to a compiled kernel -------------------------------------------------------------------------------


class Recorder:
    def __init__(self, kernel, launches: list):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


class Compiled(NamedTuple):
    kernel: CompiledKernel
    launch: dict  # what it was launched with by keyword
    log: str  # of ptxas


def find_kernels(module) -> dict[str, triton.JITFunction]:
    """Whatever the module launches: jit functions that no other jit function calls."""
    functions = {name: value for name, value in vars(module).items() if isinstance(value, triton.JITFunction)}
    called = {name for function in functions.values() for name in re.findall(r"(\w+)\(", function.src)[1:]}
    return {name: function for name, function in functions.items() if name not in called}


KERNELS = {module: find_kernels(module) for module in MODULES}


def own_kernels(module) -> set[str]:
    return {name for name, kernel in KERNELS[module].items() if kernel.fn.__module__ == module.__name__}


def record(module, call, *args) -> list:
    """What the call launches of the kernels that the module defines; those it imports are tested with their own."""
    recorded: list = []
    with pytest.MonkeyPatch.context() as patch:
        for each, kernels in KERNELS.items():
            for name, kernel in kernels.items():
                patch.setattr(each, name, Recorder(kernel, recorded))
        call(*args)
    return [launch for launch in recorded if launch[0].fn.__module__ == module.__name__]


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
            signature[parameter.name] = "*" + POINTERS[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type or "fp32"
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (specialised and value % 16 == 0):
            attributes[index,] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes), options


def compile_all(launches: list, capability: int) -> list[Compiled]:
    """All different launches, compiled."""
    different = {}
    for launch in launches:
        ast, options = source(*launch)
        different[ast.hash() + str(options)] = ast, options, launch[2]
    results = []
    for ast, options, launch in different.values():
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            kernel = triton.compile(ast, target=GPUTarget("cuda", capability, 32), options=options)
        results.append(Compiled(kernel, launch, log.getvalue()))
    return results


@functools.cache
def compiled(module, dtype, capability) -> list[Compiled]:
    return compile_all(record(module, MODULES[module], dtype), capability)


@pytest.fixture(scope="module", autouse=True)
def _compile_afresh(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRITON_ALWAYS_COMPILE", "1")  # what is cached leaves no log
        patch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
        yield


def name_of(value) -> str:
    return value.__name__.rpartition(".")[2] if value in MODULES else str(value)


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_kernels_compile_without_spills(module, dtype, capability):
    for kernel, _, log in compiled(module, dtype, capability):
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
        assert spills, f"no report on {kernel.name} from ptxas: {log}"
        assert max(map(int, spills)) <= SPILLS, f"{kernel.name}: {log}"
        assert kernel.metadata.shared <= SMALL_SHARED_MEMORY, kernel.name


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_kernel_is_compiled(module):
    recorded = [launch for dtype in TYPES for launch in record(module, MODULES[module], dtype)]
    assert {kernel.__name__ for kernel, _, _ in recorded} == own_kernels(module) != set()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("module", ALIGNED, ids=name_of)
def test_aligned_rows_are_loaded_16_bytes_at_a_time(module, dtype):
    recorded = record(module, ALIGNED[module], meta(64, 4096, dtype=dtype))
    along = [launch for launch in recorded if {"delta", "logits", "grad", "x"} & set(launch[0].arg_names)]
    assert along
    for kernel, _, _ in compile_all(along, 90):
        loads = re.findall(r"ld\.global\S*", kernel.asm["ptx"])
        wide = [load for load in loads if re.search(r"v4\.[bf]32|v2\.[bf]64", load)]
        # Loads of single values fetch coefficients; rows would take eight and more of them.
        assert len(wide) >= 2, (kernel.name, loads)
        assert len(loads) - len(wide) <= 3, (kernel.name, loads)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gates_in_place_read_every_element_once(dtype):
    """By the thread that writes it: had another one to read it too, it might come too late."""
    for kernel, launch, _ in compile_all(record(gate_bits, launch_gate_bits_on, meta(4096, dtype=dtype)), 90):
        for access in "ld", "st":
            wide = re.findall(access + r"\.global\.v(\d)\.b(32|64)", kernel.asm["ptx"])
            elements = sum(int(count) * int(bits) for count, bits in wide) // (8 * dtype.itemsize)
            assert elements * 32 * launch["num_warps"] == 8 * launch["BYTES"], kernel.name


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_products_use_tensor_cores_and_copy_ahead(dtype, capability):
    """But for float32 that must stay float32. Aligned operands are copied to shared memory 16 bytes at a time."""
    products = [each for each in compiled(linear_relu_sgr, dtype, capability) if "PRECISION" in each.launch]
    seen = set()
    for kernel, launch, _ in products:
        ptx = kernel.asm["ptx"]
        tensor_cores = re.search({80: r"mma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}[capability], ptx)
        assert bool(tensor_cores) == (launch["PRECISION"] == "tf32"), kernel.name
        seen.add((kernel.name, launch["PRECISION"], launch["DOWN"]))
        if launch["DOWN"] == 128:
            sizes = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)", ptx)
            assert "0x10" in sizes or "16" in sizes, kernel.name
            assert not re.search(r"cp\.async.*, (0x8|8),", ptx)
    kinds = {("tf32", 128), ("tf32", 64)} | ({("ieee", 64)} if dtype == torch.float32 else set())
    assert seen == {(name, *kind) for name in ("_delta_kernel", "_weight_grad_kernel") for kind in kinds}
