"""docs/extend.md: its example builds and is found by everything without being told, and its code and commands work."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text()
EXAMPLE = ROOT / "docs" / "extend"
FOLDERS = ("sgr_kernels", "csrc", "bench")
PATHS = [path for folder in FOLDERS for path in (EXAMPLE / folder).rglob("*.*") if path.suffix != ".pyc"]
FILES = [str(path.relative_to(EXAMPLE)) for path in PATHS]
SOURCES = ("sgr_kernels", "csrc", "bench", "python", "cmake", "tests", "docs/extend")
IMPORTS = "sgr_kernels/operators/__init__.py"
LINE = re.search(r"Add the line `(.*?)` to the imports of `(.*?)`", PAGE)[1]

PLUGINS = {path.name: path.read_text() for path in sorted((EXAMPLE / "plugins").glob("*.py"))}
TRAIN, RECIPE, COPY, BUILD, EVERY_KERNEL, MICRO, PYTEST, OF_BACKEND = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CPP_BLOCKS = re.findall(r"```cpp\n(.*?)```", PAGE, re.DOTALL)
(DIFF,) = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def run(command: str | list[str], tree: pathlib.Path, **more: str) -> str:
    """What a command says that is started in a tree and sees no other one."""
    of_this_run = ("PYTEST", "SGR", "TRITON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(of_this_run)}
    environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = f"{tree}:{tree / 'build' / 'alias'}"
    process = subprocess.run(
        command, shell=isinstance(command, str), cwd=tree, env=environment | more, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def run_python(code: str, tree: pathlib.Path) -> str:
    return run([sys.executable, "-c", code], tree)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> pathlib.Path:
    """A copy of the repository with the example."""
    tree = tmp_path_factory.mktemp("tree")
    leave_out = shutil.ignore_patterns("__pycache__", "*.so", "*.json", "build")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, tree / folder, ignore=leave_out)
    for file in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md"):
        shutil.copy(ROOT / file, tree)
    alias = tree / "build" / "alias"
    alias.mkdir(parents=True)
    (alias / "sgr_bench").symlink_to(tree / "bench")
    (alias / "sgr_train").symlink_to(tree / "python" / "sgr_train")
    run(COPY, tree)
    file = tree / IMPORTS
    lines = file.read_text().splitlines(keepends=True)
    later = next(i for i, line in enumerate(lines) if line.startswith("    ") and line.strip() > LINE)
    file.write_text("".join([*lines[:later], f"    {LINE}\n", *lines[later:]]))
    return tree


@pytest.fixture(scope="module")
def built(tree) -> pathlib.Path:
    run(BUILD, tree, SGR_BUILD_CUDA="0")
    return tree


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_example_has_seven_files_and_takes_one_line(tree):
    assert sorted(re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)) == sorted(FILES)
    assert len(FILES) <= 7
    for file in FILES:
        assert not (ROOT / file).exists()
        assert len((EXAMPLE / file).read_text().splitlines()) <= 80
    before, after = (path.read_text().splitlines() for path in (ROOT / IMPORTS, tree / IMPORTS))
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert changes == [f"+     {LINE}"]


def test_code_is_that_of_the_example_or_is_run_here():
    text = "\0".join([*((EXAMPLE / file).read_text() for file in FILES), *PLUGINS.values()])
    assert [block for block in PYTHON_BLOCKS if block not in text] == [smooth_block(), gate_block()]
    assert CPP_BLOCKS and all(block in text for block in CPP_BLOCKS)


def test_a_plugin_is_shown_whole_and_short():
    assert len(PLUGINS) == 6 and all(text in PYTHON_BLOCKS for text in PLUGINS.values())
    assert all(len(text.splitlines()) <= 40 for text in PLUGINS.values())


def train(command: str, tree) -> dict:
    """The settings of the run that a command makes."""
    before = set((tree / "runs").glob("*/config.json"))
    assert "test accuracy" in run(command, tree)
    [config] = set((tree / "runs").glob("*/config.json")) - before
    return json.loads(config.read_text())


def test_plugins_are_trained(tree):
    options = train(TRAIN, tree)["options"]
    assert [line.count(",") for run in (tree / "runs").glob("*/losses.csv") for line in run.open()] == [2]
    assert options["method"] == {"noisy": {"share": 0.05}} and options["head"] == {"two_layers": {"hidden": 32}}


def test_a_recipe_is_trained(tree):
    settings = train(RECIPE, tree)
    assert (settings["optimizer"], settings["epochs"], settings["model"]) == ("adamw", 1, "funnel")
    assert settings["options"]["schedule"] == {"cosine": {"warmup": 1, "final": 0.0, "per_step": False}}


def smooth_block() -> str:
    return next(block for block in PYTHON_BLOCKS if "sk.smooth" in block)


def gate_block() -> str:
    return next(block for block in PYTHON_BLOCKS if "sk.gate" in block)


def test_what_the_page_names_exists(tree):
    names = set(re.findall(r"`([\w./]+)`", PAGE.replace(DIFF, "")))
    files = {name for name in names if name.endswith((".py", ".h", ".cpp", ".cu"))}
    places = (tree, tree / "csrc" / "row_dot", tree / "sgr_kernels" / "operators")
    assert [name for name in files if not any((place / name).exists() for place in places)] == []
    assert [name for name in names - files if "/" in name and not (tree / name).exists()] == []
    suffixes = {".py", ".h", ".cuh"}
    folders = (*FOLDERS, "python")
    sources = [path for folder in folders for path in (tree / folder).rglob("*.*") if path.suffix in suffixes]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in sources)))
    assert [name for name in names - files if "/" not in name and not set(re.findall(r"\w+", name)) <= words] == []


# --- the operator -----------------------------------------------------------------------------------------------------

CHECK = """
import torch, sgr_kernels as sk
from sgr_kernels.operators.row_dot import row_dot, row_dot_backward

LIMITS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
error = lambda result, truth: float((result.double() - truth).norm() / truth.norm())
for backend in "reference", "cpu":
    with sk.backend(backend):
        for dtype, limit in LIMITS.items():
            wide = dtype if dtype == torch.float64 else torch.float32
            a, b = (torch.randn(50, 300).to(dtype).requires_grad_() for _ in range(2))
            exact = [x.detach().double().requires_grad_() for x in (a, b)]
            truth = (exact[0] * exact[1]).sum(1)
            dots = row_dot(a, b)
            assert dots.dtype == wide and error(dots, truth) < LIMITS[wide]
            grads, truths = (torch.autograd.grad(y.square().sum(), x) for y, x in ((dots, (a, b)), (truth, exact)))
            for grad, true in zip(grads, truths):
                assert grad.dtype == dtype and error(grad, true) < limit
        rows = [torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        assert torch.autograd.gradcheck(row_dot, rows)
        torch.autograd.gradcheck(lambda *rows: row_dot(*rows).sum(), rows)  # whose gradient has no strides
        torch.library.opcheck(row_dot.overload(backend), rows)
        assert row_dot(rows[0][:0], rows[1][:0]).shape == (0,) and not row_dot(rows[0][:, :0], rows[1][:, :0]).any()
        for wrong in (rows[0], rows[1].float()), (rows[0].T, rows[1].T):
            if backend == "cpu":
                try:
                    row_dot(*wrong)
                except RuntimeError as error_:
                    assert "a" in str(error_)
                else:
                    raise AssertionError("arguments that do not fit go through")
"""


def test_forward_and_gradient(built):
    run_python(CHECK, built)


def test_the_check_of_all_kernels_finds_it(built):
    said = run(EVERY_KERNEL, built)
    for dtype in "float32", "float64":
        assert re.search(rf"cpu row_dot {dtype}: 3 results", said)
        assert re.search(rf"cpu row_dot_backward {dtype}: 6 results", said)


def test_benchmarks_find_it(built):
    assert re.search(r"row_dot +forward +128x4096 float32 +cpu", run(MICRO, built))


def test_tests_find_it(built):
    missing = [word for word in PYTEST.split() if word.startswith("tests/") and not (built / word).exists()]
    command = " ".join(word for word in PYTEST.split() if word not in missing)
    if "tests/" not in command:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    assert re.search(r"\d+ passed", run(f"{command} -q -n 0 -p no:cacheprovider", built, OMP_NUM_THREADS="1"))


def test_cuda_compiles(tree):
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(f"{home}/bin/nvcc") if home else shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    command = [nvcc, "-std=c++17", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-arch=sm_90a", "-Icsrc"]
    command += [f"-isystem={path}" for path in include_paths()]
    run([*command, "-c", "csrc/row_dot/cuda.cu", "-o", "cuda.o"], tree)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_triton_computes_the_same(tree):
    code = "from sgr_bench import every_kernel as e\nfrom sgr_kernels.operators.row_dot import *\n"
    code += "e.registered = lambda: (row_dot, row_dot_backward)\nassert e.check('triton', 'cpu') == []"
    run([sys.executable, "-c", code], tree, TRITON_INTERPRET="1")


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="no ruff")
def test_the_style_is_that_of_the_house(tree):
    run([sys.executable, "-m", "ruff", "check", "--no-cache", "sgr_kernels", "bench"], tree)


# --- networks ---------------------------------------------------------------------------------------------------------

NETWORK = """
import sgr_kernels as sk, torch, torch.nn.functional as F
from torch import nn

def gradients(function, engine):
    torch.manual_seed(0)
    first, second, head = nn.Linear(6, 6).double(), nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
    body = lambda x: function(torch.tanh(first(x)), second(x))
    loss = lambda features, y: F.cross_entropy(head(features), y)
    x, y, delta_pre = torch.randn(8, 6).double(), torch.randint(3, (8,)), torch.randn(8, 6).double()
    sk.local_step(body, loss, x, y, delta_pre, weight=1.0, reduction="batchmean", engine=engine)
    return torch.cat([p.grad.flatten() for layer in (first, second) for p in layer.parameters()])

def error(function, plain):
    truth = gradients(plain, "autograd")
    return float((gradients(function, "directional") - truth).norm() / truth.norm())

def refused(function):
    try:
        gradients(function, "directional")
    except ValueError as problem:
        return "on no list of smooth functions" in str(problem)
"""


def test_networks_call_the_operator(built):
    code = """
assert refused(lambda a, b: a * row_dot(a, b)[:, None])  # not with a wrong gradient
assert error(lambda a, b: a * smooth_dot(a, b)[:, None], lambda a, b: a * (a * b).sum(1)[:, None]) < 1e-5
"""
    run_python(NETWORK + smooth_block() + code, built)


def test_gate(tree):
    before = "assert refused(lambda a, b: F.hardshrink(b + a))\nplain = F.hardshrink\n"
    code = """
function = lambda a, b: F.hardshrink(b + a, 0.3)
assert 0 < int((gradients(function, "autograd") != 0).sum())
assert error(function, function) < 1e-5 and hardshrink is F.hardshrink
"""
    run_python(NETWORK + before + gate_block() + code, tree)


# --- the backend ------------------------------------------------------------------------------------------------------


def apply(diff: str, tree: pathlib.Path) -> None:
    """Changes whose lines, wherever they are, are in the files once."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
            text = (tree / name).read_text()
            assert text.count(old) == 1, f"{name} has not once: {old}"
            (tree / name).write_text(text.replace(old, new))


def test_backend(built, tmp_path):
    for folder in "sgr_kernels", "bench":
        shutil.copytree(built / folder, tmp_path / folder)
    (tmp_path / "build" / "alias").mkdir(parents=True)
    (tmp_path / "build" / "alias" / "sgr_bench").symlink_to(tmp_path / "bench")
    apply(DIFF, tmp_path)
    said = run(OF_BACKEND, tmp_path)
    for operator in "relu_backward", "linear_relu_double_backward":
        assert re.search(rf"^numpy {operator} float64: [1-9]\d* results", said, re.MULTILINE)
