"""The list of packages, and the build of the compiled part, by CMake. All other facts are in pyproject.toml."""

import os
import pathlib
import shutil
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).parent
NO, YES = ("0", "off", "false", "no"), ("1", "on", "true", "yes")


def switch(name: str) -> bool | None:
    """An environment switch: True, False, or None where it is not set."""
    value = os.environ.get(name, "").lower()
    if value not in ("", *NO, *YES):
        raise SystemExit(f"{name} must be 0 or 1, got {value!r}")
    return None if value == "" else value in YES


def wants_build() -> bool:
    """Pure Python without a compiler, anywhere but on Linux, or with SGR_BUILD_CPP=0; SGR_BUILD_CPP=1 insists."""
    wanted = switch("SGR_BUILD_CPP")
    if wanted and sys.platform == "win32":
        raise SystemExit("SGR_BUILD_CPP=1: the compiled part cannot be built on Windows; leave SGR_BUILD_CPP unset")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return sys.platform == "linux" and compiler is not None if wanted is None else wanted


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        # _C lands in <prefix>/sgr_kernels, the op libraries beside it; an editable install has the sources as prefix.
        prefix = pathlib.Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        build = pathlib.Path(self.build_temp).resolve()
        parallel = str(jobs())
        cuda = {None: "AUTO", True: "ON", False: "OFF"}[switch("SGR_BUILD_CUDA")]
        configure = ["-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DSGR_BUILD_CUDA={cuda}"]
        self.spawn(["cmake", *configure, f"-DPython_EXECUTABLE={sys.executable}"])
        self.spawn(["cmake", "--build", str(build), "--parallel", parallel])
        self.spawn(["cmake", "--install", str(build), "--prefix", str(prefix)])

    def copy_extensions_to_source(self) -> None:
        # The last step of an editable install; setuptools knows of _C only.
        super().copy_extensions_to_source()
        for library in pathlib.Path(self.build_lib, "sgr_kernels").glob("libsgr_*.so"):
            self.copy_file(str(library), str(ROOT / "sgr_kernels"))


def jobs() -> int:
    """MAX_JOBS, else a compiler a core as far as memory goes (an nvcc process takes up to 4 GiB)."""
    wanted = os.environ.get("MAX_JOBS", "").strip()
    if wanted:
        if not wanted.isdecimal() or int(wanted) == 0:
            raise SystemExit(f"MAX_JOBS must be a whole number of at least 1, got {wanted!r}")
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**32
    return max(1, min(cores, memory))


def packages() -> list[str]:
    """Every folder with Python in it; pyproject.toml says which folder is which package."""
    bench = ["sgr_bench", *(f"sgr_bench.{name}" for name in find_packages("bench"))]
    return [*find_packages(include=["sgr_kernels*"]), *find_packages("python"), *bench]


setup(
    packages=packages(),
    ext_modules=[Extension("sgr_kernels._C", sources=[])] if wants_build() else [],
    cmdclass={"build_ext": CMakeBuild},
)
