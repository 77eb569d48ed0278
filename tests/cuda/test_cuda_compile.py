"""Every CUDA source compiles for every generation of devices, without spills and with wide memory accesses."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
ARCHITECTURES = ("80", "90a", "100")
# Kernels bound by memory, by operator (patterns of their mangled names): how many rows they read, and whether they
# write one.
ROWS = {
    "sgr_loss": {"sgr_loss_kernel": (2, False), "combine_kernelI.*Li2E": (2, True)},
    "sgr_residual": {
        "sgr_residual_short_kernel": (2, True),
        "sgr_residual_rows_kernel": (2, True),
        "sgr_residual_turns_kernel": (2, True),
    },
    "sgr_shift": {"combine_kernelI.*Li3E": (3, True)},
    "row_norms": {"row_norms_kernel": (1, False)},
    "relu_backward": {
        "relu_backward_slices_kernel": (2, True),
        "relu_backward_columns_kernelI.*Li[248]E": (2, True),  # those of width 1 are for what is not aligned
    },
    "gate_bits": {
        "record_relu_kernelI.*Li[248]E": (1, True),
        "replay_relu_kernelI.*Li[248]E": (1, True),
    },
}

ALONE = "sgr_residual_short_kernel"  # its blocks have a processor each


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which(f"{home}/bin/nvcc") if home else shutil.which("nvcc")
    if found is None:
        pytest.skip("no nvcc")
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """source -> (what ptxas says, {architecture: PTX})."""

    @functools.cache
    def compile_source(source: Path) -> tuple[str, dict[str, str]]:
        folder = tmp_path_factory.mktemp(source.parent.name)
        command = [nvcc(), "-std=c++17", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
        command += [f"-I{ROOT / 'csrc'}", *(f"-isystem={path}" for path in include_paths())]
        for arch in ARCHITECTURES:
            command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
        command += ["--threads", "2", "-Xptxas", "-v", "--keep", "--keep-dir", str(folder)]
        command += ["-c", str(source), "-o", str(folder / "object.o")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        ptx = {arch: next(folder.glob(f"*compute_{arch}.ptx")).read_text() for arch in ARCHITECTURES}
        return result.stderr, ptx

    return compile_source


def test_there_are_sources():
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_compiles_without_spills(source, compiled):
    report, _ = compiled(source)
    kernels = re.findall(
        r"Compiling entry function '(\S+)' for 'sm_(\w+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {arch for _, arch, *_ in kernels} == set(ARCHITECTURES), report
    spilling = [kernel for kernel in kernels if any(int(size) > 0 for size in kernel[2:5])]
    assert not spilling, spilling
    shared = [kernel for kernel in kernels if ALONE not in kernel[0]]
    too_many = [kernel for kernel in shared if int(kernel[5]) > 80]  # three blocks of 256 threads on a processor
    assert not too_many, too_many


@pytest.mark.parametrize("operator", ROWS)
def test_rows_are_read_and_written_in_words_of_16_bytes(operator, compiled):
    """The compiler takes wide accesses apart for small reasons; then the kernels are right and several times slower."""
    wide = {
        "read": r"ld\.global\.(?:nc|ca)\.v4\.u32|cp\.async\.cg\.shared\.global \[\S+\], \[\S+\], 16",
        "read again": r"ld\.global\.cs\.v4\.u32",
        "write": r"st\.global\.(?:wb|cs)\.v4\.u32",
        "recall": r"ld\.shared\.v(?:4\.\w*32|2\.\w*64)",
    }
    _, ptx = compiled(ROOT / "csrc" / operator / "cuda.cu")
    for text in ptx.values():
        entries = re.findall(r"\.entry (\w+)\((.*?)^}", text, re.DOTALL | re.MULTILINE)
        kernels = [(kernel, *entry) for kernel in ROWS[operator] for entry in entries if re.search(kernel, entry[0])]
        assert {kernel for kernel, *_ in kernels} == ROWS[operator].keys(), [name for name, _ in entries]
        for kernel, name, body in kernels:
            count = {use: len(re.findall(pattern, body)) for use, pattern in wide.items()}
            rows, writes = ROWS[operator][kernel]
            assert count["read"] >= 3 * rows, name  # a batch of two and what remains
            if writes:
                assert rows * count["write"] >= (count["read again"] or count["read"]), name
            if kernel == "sgr_residual_rows_kernel":
                assert count["recall"] >= count["read"], name
