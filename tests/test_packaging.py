"""Building and installing: sdist, pure-Python wheel, and a report that tells the truth about both."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
import setuptools
import torch

import sgr_kernels as sk

ROOT = pathlib.Path(__file__).parent.parent
REPORT = "import sgr_kernels; print(sgr_kernels.backends()['cpu'])"


def python(*arguments, cwd, **environment) -> str:
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    process = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.strip()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_this_installation_has_the_cpu_kernels():
    """Otherwise everything else would test the reference against itself."""
    assert sk.backends()["cpu"] == "ok"


@pytest.mark.skipif(shutil.which("nvcc") is None or torch.version.cuda is None, reason="no nvcc, or torch without CUDA")
def test_this_installation_has_the_cuda_kernels():
    assert (pathlib.Path(sk.__file__).parent / "libsgr_cuda.so").exists()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("sdist")
    python("-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> pathlib.Path:
    """Built from the sdist, as pip does it; without CUDA, which takes minutes."""
    out, build = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("build")
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(sdist)]
    python(*command, cwd=out, SGR_BUILD_CPP="1", SGR_BUILD_CUDA="0", TMPDIR=str(build))
    return next(out.glob("*.whl"))


def install(package: pathlib.Path, target: pathlib.Path, **environment) -> None:
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(target), str(package)]
    python(*command, cwd=target, **environment)


def test_sdist_without_a_build_reports_that(sdist, tmp_path):
    install(sdist, tmp_path, SGR_BUILD_CPP="0")
    assert python("-c", REPORT, cwd=tmp_path).startswith("missing: sgr_kernels was installed without")


def test_wheel_has_kernels_that_run(wheel, tmp_path):
    install(wheel, tmp_path)
    assert python("-c", REPORT, cwd=tmp_path) == "ok"


def test_source_tree_that_shadows_a_build_says_so(sdist, wheel, tmp_path):
    installed, source = tmp_path / "installed", tmp_path / "source"
    installed.mkdir()
    install(wheel, installed)
    source.mkdir()
    subprocess.run(["tar", "xzf", str(sdist), "--strip-components=1", "-C", str(source)], check=True)
    report = python("-c", REPORT, cwd=source, PYTHONPATH=str(installed))
    assert report.startswith("missing: ") and "shadows the built package in" in report


# --- what the packages hold, and nothing else -------------------------------------------------------------------------

FOLDERS = {"sgr_kernels": "sgr_kernels", "sgr_train": "python/sgr_train", "sgr_bench": "bench"}
OF_THE_BUILD = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
NOT_IN_AN_SDIST = {".ci/run", ".gitignore"}


def promised() -> set[str]:
    """Of a wheel, but for what the build adds: every module, the mark of types, the kernels, the stored results."""
    patterns = {"*.py": FOLDERS, "results/**/*.json": ["sgr_bench"]}
    files = {
        f"{package}/{file.relative_to(ROOT / FOLDERS[package])}"
        for pattern, packages in patterns.items()
        for package in packages
        for file in (ROOT / FOLDERS[package]).rglob(pattern)
    }
    extension = f"sgr_kernels/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    return files | {"sgr_kernels/py.typed", "sgr_kernels/libsgr_cpu.so", extension}


def test_wheel_holds_what_is_promised(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names == promised() | {f"sgr_kernels-{sk.__version__}.dist-info/{name}" for name in OF_THE_BUILD}


def test_sdist_holds_the_sources(sdist):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git here to ask what the sources are")
    ask = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    sources = {name for name in listed if (ROOT / name).exists()} - NOT_IN_AN_SDIST
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("sgr_kernels.egg-info/")}
    assert names - made == sources


def test_wheel_names_no_folder_of_the_machine(wheel):
    """Neither that of the sources, of the build, of Python nor of torch: in messages, line tables or search paths."""
    folders = {ROOT, wheel.parent.parent, sys.prefix, pathlib.Path(torch.__file__).parent, pathlib.Path.home()}
    forbidden = [f"{folder}/".encode() for folder in folders if len(pathlib.Path(folder).parts) > 1]
    archive = zipfile.ZipFile(wheel)
    found = [(name, path) for name in archive.namelist() for path in forbidden if path in archive.read(name)]
    assert found == []


def test_version_and_date_are_the_same_everywhere(wheel):
    citation = (ROOT / "CITATION.cff").read_text()
    [version] = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    [date] = re.findall(r"^date-released: (\S+)$", citation, re.MULTILINE)
    newest = re.search(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (version, date)
    assert {version, wheel.name.split("-")[1]} == {sk.__version__}


def test_misspelt_switches_are_errors(tmp_path):
    environment = {**os.environ, "SGR_BUILD_CUDA": "maybe"}
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode != 0
    assert "SGR_BUILD_CUDA must be 0 or 1, got 'maybe'" in process.stderr


# --- systems and environments -----------------------------------------------------------------------------------------


@pytest.fixture
def setup_py(monkeypatch):
    """Runs setup.py without a command, in the environment of the moment; gives what it defines and tells setuptools."""

    def run() -> dict:
        told = {}
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
        return runpy.run_path(str(ROOT / "setup.py")) | told

    for name in "MAX_JOBS", "SGR_BUILD_CPP", "CXX":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return run


@pytest.mark.parametrize(("value", "jobs"), [("3", 3), (" 12 ", 12), ("", 5), ("  ", 5)])
def test_number_of_compilers(setup_py, monkeypatch, value, jobs):
    monkeypatch.setenv("MAX_JOBS", value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(5), raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 2**20)
    assert setup_py()["jobs"]() == jobs


@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5", "4 x"])
def test_a_number_of_compilers_that_is_none_is_an_error(setup_py, monkeypatch, value):
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(SystemExit, match=f"^MAX_JOBS must be a whole number of at least 1, got '{value}'$"):
        setup_py()["jobs"]()


def test_systems_without_affinity_count_their_cores(setup_py, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "sysconf", lambda _: 2**20)
    assert setup_py()["jobs"]() == 3


@pytest.mark.parametrize(
    ("system", "wanted", "built"),
    [("linux", "", True), ("linux", "0", False), ("darwin", "", False), ("darwin", "1", True), ("win32", "", False)],
)
def test_compiled_part_is_built_on_linux_or_on_request(setup_py, monkeypatch, system, wanted, built):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("SGR_BUILD_CPP", wanted)
    assert bool(setup_py()["ext_modules"]) == built


def test_compiled_part_is_refused_on_windows(setup_py, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("SGR_BUILD_CPP", "1")
    with pytest.raises(SystemExit, match="^SGR_BUILD_CPP=1: the compiled part cannot be built on Windows; leave"):
        setup_py()


ELSEWHERE = """
import os, sys
import torch
sys.modules["resource"] = sys.modules["fcntl"] = None
del os.sched_getaffinity, os.sysconf
sys.platform = "{system}"
import sgr_kernels as sk
import sgr_bench.cli
body, head = sk.LinearReLU(6, 16), sk.CrossEntropyHead(sk.ETFClassifier(3, 16))
for engine in "autograd", "fused", "directional":
    step = sk.local_step(
        body, head, torch.randn(5, 6), torch.arange(5) % 3, torch.randn(5, 6), weight=0.1, engine=engine
    )
    assert step.sgr > 0 and body.weight.grad.isfinite().all()
print(sk.backends()["cpu"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="plays another system on Linux")
@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_pure_python_works_on_other_systems(tmp_path, system):
    """Without the modules and functions that they lack, and without a compiled part."""
    leave_out = shutil.ignore_patterns("*.so", "*.dylib", "*.pyd", "__pycache__", "results")
    for package, folder in FOLDERS.items():
        shutil.copytree(ROOT / folder, tmp_path / package, ignore=leave_out)
    report = python("-c", ELSEWHERE.format(system=system), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert report.startswith("missing: ")


PROBE = """
cmake_minimum_required(VERSION 3.24)
project(probe NONE)
set(TORCH_CUDA_VERSION "13.0")
include({root}/cmake/cuda.cmake)
"""


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("wanted", ["AUTO", "ON"])
def test_cuda_home_without_an_nvcc_that_works(tmp_path, wanted, broken):
    """The CUDA operators are left out, or it is an error where they are asked for."""
    (tmp_path / "CMakeLists.txt").write_text(PROBE.format(root=ROOT))
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    if broken:
        compiler.write_text("#!/bin/sh\nexit 1\n")
        compiler.chmod(0o755)
    folder = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    cmake, ninja = (shutil.which(tool, path=folder) for tool in ("cmake", "ninja"))
    command = [cmake, "-S", str(tmp_path), "-B", str(tmp_path / "build"), "-G", "Ninja", f"-DSGR_BUILD_CUDA={wanted}"]
    command.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
    environment = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path / "cuda")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    reason = "no working nvcc in CUDA_HOME or on the PATH"
    if wanted == "AUTO":
        assert process.returncode == 0, process.stderr
        assert f"CUDA ops: OFF {reason}" in process.stdout
    else:
        assert process.returncode != 0 and f"SGR_BUILD_CUDA=1, but {reason}" in process.stderr
