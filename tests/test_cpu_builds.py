"""The C++ operators built in other ways than here: for one x86-64 level, and with a C++ runtime of their own."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import pytest

import sgr_kernels as sk

TESTS = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(sk.__file__).parent
# What a level adds to the one before, as /proc/cpuinfo names it.
LEVELS = {
    "x86-64": set(),
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
# Has torch, against which the kernels are held, compute as on a machine of that level.
TORCH_AT = {
    "x86-64": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "x86-64-v3": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "x86-64-v4": {},
}
# Tests of what the kernels compute. How operators are registered and compiled into graphs depends on no level.
KERNEL_TESTS = (
    "test_cross_entropy.py",
    "test_gate_bits.py",
    "test_relu_layers.py",
    "test_relu_sgr.py",
    "test_row_norms.py",
    "test_sgr_loss.py",
    "test_step_length.py",
    "test_every_operator.py",
    "bench/test_every_kernel.py",
)
SELECTED = "not reference and not opcheck and not compile"
STATIC_RUNTIME = "-static-libstdc++ -static-libgcc"

pytestmark = [
    pytest.mark.skipif(sk.backends()["cpu"] != "ok", reason="the C++ operators are not built"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


def missing(level: str) -> str:
    """Why a level cannot run here, "" if it can."""
    if platform.machine() != "x86_64":
        return f"{level}: this is {platform.machine()}"
    has = pathlib.Path("/proc/cpuinfo").read_text().split()
    lacks = set().union(*(flags for other, flags in LEVELS.items() if other <= level)).difference(has)
    return f"{level}: this processor has no {', '.join(sorted(lacks))}" if lacks else ""


def run(command: list[str], cwd: pathlib.Path = TESTS, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@functools.cache
def build_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def build(level: str, linker_flags: str = "") -> pathlib.Path:
    """The library libsgr_cpu.so for a level; "" is for all. Object files are kept from one call to the next."""
    folder = pathlib.Path(build_folder().name) / (level or "all")
    options = [f"-DSGR_CPU_LEVEL={level}", f"-DCMAKE_MODULE_LINKER_FLAGS={linker_flags}", "-DSGR_BUILD_CUDA=OFF"]
    configure = ["-S", str(TESTS.parent), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in [
        ["cmake", *configure, *options],
        ["cmake", "--build", str(folder), "--target", "sgr_cpu", "--parallel", "2"],
    ]:
        process = run(command)
        assert process.returncode == 0, process.stdout + process.stderr
    return folder / "libsgr_cpu.so"


def package_with(library: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The package as it is here, but with this library, in a folder to import it from."""
    package = folder / "sgr_kernels"
    package.mkdir()
    for path in PACKAGE.iterdir():
        if not path.name.startswith("libsgr_"):
            (package / path.name).symlink_to(path)
    shutil.copy(library, package / "libsgr_cpu.so")
    return folder


def python_with(folder: pathlib.Path, code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code that imports the package of a folder."""
    code = f"import sgr_kernels as sk\nassert sk.__file__.startswith({str(folder)!r}), sk.__file__\n{code}"
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    return run([sys.executable, "-c", code, *arguments], cwd=folder, **environment)


@pytest.mark.parametrize("level", LEVELS)
def test_kernels_of_one_instruction_set(tmp_path, level):
    if missing(level):
        pytest.skip(missing(level))
    library = build(level)
    assert b"arch_x86_64_v" not in library.read_bytes()  # as the compiler names clones for several levels
    code = "import pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", SELECTED]
    tests = [str(TESTS / name) for name in KERNEL_TESTS]
    process = python_with(package_with(library, tmp_path), code, *options, *tests, **TORCH_AT[level])
    assert process.returncode == 0, f"{level}:\n{process.stdout[-10000:]}{process.stderr[-2000:]}"


# What an input of a user can make go wrong: in a check, in an operator that has no function around it, and in a thread.
BAD_INPUTS = """
import resource, torch

def error_of(function, *args):
    try:
        function(*args)
    except RuntimeError as error:
        print(error)

logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 5, 0])
body, head = sk.LinearReLU(6, 16), sk.CrossEntropyHead(sk.ETFClassifier(3, 16))
error_of(sk.cross_entropy, logits, labels)
error_of(lambda: sk.local_step(body, head, torch.randn(4, 6), labels - 6, None, weight=1.0, engine="fused"))
error_of(torch.ops.sgr.record_relu, logits, 0.0)
error_of(torch.ops.sgr.replay_relu, logits.flatten(), torch.zeros(9, dtype=torch.uint8), 0.0)
error_of(torch.ops.sgr.row_norms, logits.int())
large, label = torch.zeros(1, 2**26, dtype=torch.bfloat16), torch.tensor([0])
torch.set_num_threads(1)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 600 * 2**20, -1))  # for the gradient, 256 MiB
error_of(sk.cross_entropy, large, label)  # and not for the probabilities, 512 MiB
"""
MESSAGES = """\
labels must be 0 to 2, got 5 in row 2
labels must be 0 to 2, got -6 in row 0
x must be one-dimensional, got 2 dimensions
bits must have 2 bytes for 12 elements of x, got 9
expected float64, float32, bfloat16 or float16
not enough memory
"""


@pytest.mark.parametrize("runtime", ["", STATIC_RUNTIME], ids=["of_the_process", "its_own"])
def test_a_bad_input_is_an_error_whatever_the_runtime(tmp_path, runtime):
    """Linked statically, the C++ runtime of the library and that of torch do not know each other's exceptions."""
    library = build("" if missing("x86-64") else "x86-64", runtime)
    assert (b"libstdc++.so" in library.read_bytes()) == (runtime == "")  # the one of the process
    process = python_with(package_with(library, tmp_path), BAD_INPUTS)
    assert (process.returncode, process.stdout) == (0, MESSAGES), process.stderr
