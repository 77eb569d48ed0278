"""Every kernel compiles for every GPU generation, without register spills and with wide loads. Needs no GPU.

The host functions of all operators that have Triton kernels are run on their cases, all sizes of them, as meta tensors,
with recorders in the place of the kernels. What they would have launched is compiled ahead of time, with the
specialisation that a launch would have chosen. There are so many that each generation gets a selection.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import itertools
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton.language")

import triton  # noqa: E402
from helpers import version_of  # noqa: E402
from sgr_bench import cases  # noqa: E402
from sgr_bench.cases.case import Inputs  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource, CompiledKernel  # noqa: E402

from sgr_kernels import operators  # noqa: E402
from sgr_kernels.operators import Operator, registered  # noqa: E402

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="nothing compiles where kernels are interpreted"
)

CAPABILITIES = (80, 90, 100)
TYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
POINTERS = TYPES | {torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8"}
# Bytes. The assembler of older versions spills a few to fit in one more program.
SPILLS = 0 if version_of("triton") >= (3, 7) else 8
# The longest rows of halves that stay in registers, where they are unaligned and no tensor is the floor.
KNOWN_SPILLS = {("_residual_kernel", 90): 16, ("_residual_kernel", 100): 16}
if version_of("triton") < (3, 7):  # down to 32 registers, where 40 are wanted
    KNOWN_SPILLS |= {("_long_residual_kernel", 90): 16, ("_long_residual_kernel", 100): 16}
SMALL_SHARED_MEMORY = 99 * 1024  # bytes of a program, on the GPUs that have least


# --- what there is ----------------------------------------------------------------------------------------------------


def modules() -> list[ModuleType]:
    """Every module of the operators."""
    found = pkgutil.walk_packages(operators.__path__, operators.__name__ + ".")
    return [importlib.import_module(each.name) for each in found]


def jit_functions(module: ModuleType) -> dict[str, triton.JITFunction]:
    """Those it defines and those it imports."""
    return {name: value for name, value in vars(module).items() if isinstance(value, triton.JITFunction)}


def called_by(function: triton.JITFunction) -> Iterator[triton.JITFunction]:
    """The jit functions that its source names."""
    for node in ast.walk(ast.parse(function.src)):
        if isinstance(node, ast.Name):
            value = function.fn.__globals__.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            value = getattr(function.fn.__globals__.get(node.value.id), node.attr, None)
        else:
            continue
        if isinstance(value, triton.JITFunction):
            yield value


ALL = modules()
MODULES = {module: functions for module in ALL if (functions := jit_functions(module))}
FUNCTIONS = {function for functions in MODULES.values() for function in functions.values()}
CALLED = {called for function in FUNCTIONS for called in called_by(function)}
KERNELS = sorted(FUNCTIONS - CALLED, key=lambda kernel: kernel.__name__)  # what a host may launch
HOSTS = {  # by the name of the operator, as its folder's module has it
    (name, module): value
    for module in ALL
    if module.__name__.endswith(".triton")
    for name, value in vars(module).items()
    if callable(value) and getattr(value, "__module__", "") == module.__name__
}
OPERATORS = {
    operator.name: operator
    for operator in registered()
    if operator.has("triton") and operator.overload("triton").namespace == "sgr_triton"  # others are made of these
}


def host_of(operator: Operator) -> tuple[Callable[..., Any], ModuleType]:
    """The function that launches, and where it stands."""
    [(module, host)] = [(module, host) for (name, module), host in HOSTS.items() if name == operator.name]
    return host, module


# --- from a case to a launch ------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    kernel: triton.JITFunction
    args: tuple
    options: dict  # what it was launched with by keyword
    inputs: tuple  # of the operator


class Recorder:
    def __init__(self, kernel: triton.JITFunction, launches: list[tuple]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


@functools.cache
def launches(operator: Operator, dtype: torch.dtype) -> list[Launch]:
    """What the operator launches on all its cases."""
    host, _ = host_of(operator)
    found: list[Launch] = []
    recorded: list[tuple] = []
    with pytest.MonkeyPatch.context() as patch:
        for module, functions in MODULES.items():
            for name, function in functions.items():
                patch.setattr(module, name, Recorder(function, recorded))
        for size in cases.of(operator).sizes:
            for arguments in cases.of(operator).arguments(size, Inputs(dtype, "meta")):
                host(*arguments)
                found += [Launch(*launch, arguments) for launch in recorded]
                recorded.clear()
    return found


# --- from a launch to a compiled kernel -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Specialisation:
    """What is compiled once: a kernel with types, constants, and what is known to be divisible by 16."""

    key: str
    ast: ASTSource = field(compare=False)
    options: dict = field(compare=False)
    launch: Launch = field(compare=False)  # one of those that want it

    @property
    def properties(self) -> dict[str, str]:
        """What a launch would choose, parameter by parameter."""
        names = self.launch.kernel.arg_names
        constants = {names[index]: value for (index,), value in self.ast.constants.items()}
        divisible = {names[index]: "divisible" for (index,) in self.ast.attrs}
        known = ((name, kind, constants.get(name), divisible.get(name)) for name, kind in self.ast.signature.items())
        return {name: str(rest) for name, *rest in known} | {name: str(value) for name, value in self.options.items()}

    def __str__(self) -> str:
        return f"{self.launch.kernel.__name__} {self.properties}"


def specialise(launch: Launch) -> Specialisation:
    """What triton's launcher makes of the arguments, and the options among them."""
    kernel, bound = launch.kernel, dict(zip(launch.kernel.arg_names, launch.args, strict=False)) | launch.options
    options = {name: bound.pop(name) for name in launch.options if name not in kernel.arg_names}
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
        if begins_aligned(value) if isinstance(value, torch.Tensor) else specialised and value % 16 == 0:
            attributes[index,] = [["tt.divisibility", 16]]
    ast = ASTSource(kernel, signature, constants, attributes)
    return Specialisation(ast.hash() + str(options), ast, options, launch)


def begins_aligned(tensor: torch.Tensor) -> bool:
    """Whether it begins at a multiple of 16 bytes, as memory does."""
    return tensor.data_ptr() % 16 == 0


@functools.cache
def specialisations(kernel: triton.JITFunction) -> list[Specialisation]:
    """Of all that operators want of a kernel so many that any two properties that occur together still do."""
    wanted = (launches(operator, dtype) for operator in OPERATORS.values() for dtype in TYPES)
    candidates = dict.fromkeys(specialise(each) for each in itertools.chain(*wanted) if each.kernel is kernel)
    left = {each: set(itertools.combinations(sorted(each.properties.items()), 2)) for each in candidates}
    chosen: list[Specialisation] = []
    while left:
        best = max(left, key=lambda each: len(left[each]))
        seen = left.pop(best)
        chosen.append(best)
        left = {each: more for each, pairs in left.items() if (more := pairs - seen)}
    return chosen


@functools.cache
def compiled(wanted: Specialisation, capability: int) -> tuple[CompiledKernel, str]:
    """And what ptxas has to say."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        kernel = triton.compile(wanted.ast, target=GPUTarget("cuda", capability, 32), options=wanted.options)
    return kernel, log.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _compile_afresh(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRITON_ALWAYS_COMPILE", "1")  # what is cached leaves no log
        patch.setenv("TRITON_DUMP_PTXAS_LOG", "1")
        yield


def names(functions: Iterable[triton.JITFunction]) -> list[str]:
    return sorted(function.__name__ for function in functions)


# --- tests ------------------------------------------------------------------------------------------------------------


def test_every_operator_has_a_host_function():
    assert {name: len([each for each in HOSTS if each[0] == name]) for name in OPERATORS} == dict.fromkeys(OPERATORS, 1)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.removeprefix(operators.__name__ + "."))
def test_every_kernel_is_compiled(module):
    """By the operators of its folder on their own cases; what all share, by any of them."""
    defined = {function for function in KERNELS if function.fn.__module__ == module.__name__}
    shared = module.__name__.startswith(f"{operators.__name__}.common.")
    users = [operator for operator in OPERATORS.values() if shared or host_of(operator)[1] is module]
    launched = {each.kernel for operator in users for dtype in TYPES for each in launches(operator, dtype)}
    assert names(defined - launched) == []
    assert defined or shared


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda each: each.__name__)
def test_kernels_compile_without_spills(kernel, capability):
    allowed = KNOWN_SPILLS.get((kernel.__name__, capability), SPILLS)
    for each in specialisations(kernel):
        result, log = compiled(each, capability)
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
        assert spills, f"no report on {each} from ptxas: {log}"
        assert max(map(int, spills)) <= allowed, f"{each}: {log}"
        assert result.metadata.shared <= SMALL_SHARED_MEMORY, each


def goes_along_aligned_rows(launch: Launch) -> bool:
    """Whether it is handed an input of the largest size, where everything is a multiple of 16 or of 16 bytes.

    Not those that add up more partial sums of a row than a program has threads.
    """
    if launch.options.get("SPLITS", 1) > 32 * launch.options["num_warps"]:
        return False
    sizes = {id(each): each.numel() for each in launch.inputs if isinstance(each, torch.Tensor)}
    tensors = [each for each in launch.args if isinstance(each, torch.Tensor)]
    along = any(sizes.get(id(each)) == max(sizes.values()) for each in tensors)
    numbers = [
        value
        for value, parameter in zip(launch.args, launch.kernel.params, strict=False)
        if isinstance(value, int) and not parameter.do_not_specialize
    ]
    return along and all(map(begins_aligned, tensors)) and all(each % 16 == 0 or each == 1 for each in numbers)


OF_ROWS = {
    name: operator for name, operator in OPERATORS.items() if name != "sgr_step_length"
}  # of a few numbers a row


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("operator", OF_ROWS.values(), ids=OF_ROWS)
def test_aligned_rows_are_loaded_16_bytes_at_a_time(operator, dtype):
    along = dict.fromkeys(specialise(each) for each in launches(operator, dtype) if goes_along_aligned_rows(each))
    assert along or not launches(operator, dtype)
    for each in along:
        loads = re.findall(r"ld\.global(?!\S*acquire)\S*", compiled(each, 90)[0].asm["ptx"])  # those ask for a flag
        wide = [load for load in loads if re.search(r"v4\.[bf]32|v2\.[bf]64", load)]
        # Loads of single values fetch coefficients, a floor, and partial sums; rows would take eight and more of them.
        assert len(wide) >= 2, (str(each), loads)
        assert len(loads) - len(wide) <= 6, (str(each), loads)


IN_PLACE = {name: operator for name, operator in OPERATORS.items() if cases.of(operator).in_place}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("operator", IN_PLACE.values(), ids=IN_PLACE)
def test_gates_in_place_read_every_element_once(operator, dtype):
    """By the thread that writes it: had another one to read it too, it might come too late."""
    aligned = dict.fromkeys(specialise(each) for each in launches(operator, dtype) if goes_along_aligned_rows(each))
    assert aligned
    for each in aligned:
        ptx = compiled(each, 90)[0].asm["ptx"]
        for access in "ld", "st":
            wide = re.findall(access + r"\.global\.v(\d)\.b(32|64)", ptx)
            elements = sum(int(count) * int(bits) for count, bits in wide) // (8 * dtype.itemsize)
            options = each.launch.options
            assert elements * 32 * options["num_warps"] == 8 * options["BYTES"], str(each)
