"""Building and installing: sdist, pure-Python wheel, and a report that tells the truth about both."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
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


def install(package: pathlib.Path, target: pathlib.Path, **environment) -> None:
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(target), str(package)]
    python(*command, cwd=target, **environment)


@pytest.mark.parametrize(("build", "status"), [("0", "missing: sgr_kernels was installed without"), ("1", "ok")])
def test_sdist_builds_and_reports_what_it_has(sdist, tmp_path, build, status):
    install(sdist, tmp_path, SGR_BUILD_CPP=build, SGR_BUILD_CUDA="0")
    assert python("-c", REPORT, cwd=tmp_path).startswith(status)


def test_source_tree_that_shadows_a_build_says_so(sdist, tmp_path):
    installed, source = tmp_path / "installed", tmp_path / "source"
    installed.mkdir()
    install(sdist, installed, SGR_BUILD_CPP="1", SGR_BUILD_CUDA="0")
    source.mkdir()
    subprocess.run(["tar", "xzf", str(sdist), "--strip-components=1", "-C", str(source)], check=True)
    report = python("-c", REPORT, cwd=source, PYTHONPATH=str(installed))
    assert report.startswith("missing: ") and "shadows the built package in" in report


FOLDERS = {"sgr_kernels": "sgr_kernels", "sgr_train": "python/sgr_train", "sgr_bench": "bench"}


def test_wheel_holds_the_libraries_and_every_module(sdist, tmp_path):
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(sdist)]
    python(*command, cwd=tmp_path, SGR_BUILD_CUDA="0")
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    modules = {
        f"{package}/{file.relative_to(ROOT / folder)}"
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {"sgr_kernels/libsgr_cpu.so", "sgr_kernels/py.typed", *modules} <= set(names)
    assert any(name.startswith("sgr_kernels/_C.") for name in names)


def test_misspelt_switches_are_errors(tmp_path):
    environment = {**os.environ, "SGR_BUILD_CUDA": "maybe"}
    command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode != 0
    assert "SGR_BUILD_CUDA must be 0 or 1, got 'maybe'" in process.stderr
