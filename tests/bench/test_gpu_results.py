"""bench/gpu_results.sh without a GPU: with a tiny row, and with a python3 that only says what it was asked for."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "bench" / "gpu_results.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def call(tmp_path):
    """``call(WORD, ...)`` -> exit status, standard output, standard error; ``python3`` is the one in bin, if any."""

    def call(*words: str) -> tuple[int, str, str]:
        path = f"{tmp_path / 'bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        options = {"cwd": tmp_path, "env": {**os.environ, "PATH": path}, "capture_output": True, "text": True}
        process = subprocess.run(["bash", str(SCRIPT), *words], **options)
        return process.returncode, process.stdout, process.stderr

    return call


@pytest.fixture
def python3(tmp_path):
    """``python3(script)``: what sh does in its place, after it has said what was wanted."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "python3"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\ncase "$1" in -m) echo "wanted: $*" ;; esac\n{script}\n')
        program.chmod(0o755)

    return write


def test_a_tiny_row_on_the_cpu(tmp_path, call):
    draw = np.random.default_rng(0).integers
    arrays = {
        f"{part}_{name}": values
        for part, count in (("train", 100), ("test", 20))
        for name, values in (
            ("images", draw(256, size=(count, 8, 8, 3), dtype=np.uint8)),
            ("labels", np.arange(count) % 10),
        )
    }
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out" / "cifar10.npz", **arrays)
    tiny = ("--device", "cpu", "--set", "model=plainnet", "depth=3", "width=8", "epochs=1", "batch_size=32")
    status, output, errors = call("out", "k3-layerwise", *tiny, "--seeds", "5")
    assert status == 0, output + errors
    (run,) = json.loads((tmp_path / "out" / "results" / "table6.json").read_text())["runs"]
    assert run["seed"] == 5 and run["modules"] == 3 and run["images"] == {"train": 90, "val": 10, "test": 20}
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| k3-layerwise | no number (CIFAR-10, K=3, layerwise) |" in page and "epochs 1 (200)" in page


def test_what_is_run_unless_told_otherwise(tmp_path, call, python3):
    python3("exit 0")
    status, output, errors = call("out")
    assert status == 0, errors
    out = tmp_path / "out"
    expected = f"run table6 k3-sgr k3-layerwise --work {out}/work --out {out}/results --jobs 3 --minutes 8"
    assert f"{expected} --device cuda --set cuda_graph=true" in output


def test_rows_and_options_are_passed_on(tmp_path, call, python3):
    python3('case "$*" in *training\\ run*) exit 3 ;; esac')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cifar10.npz").touch()
    status, output, _ = call("out", "bp", "k2-sgr", "--jobs", "6", "--minutes", "2")
    assert status == 3  # something is left
    assert re.search(r"run table6 bp k2-sgr .* --data npz:\S+/out/cifar10.npz --jobs 6 --minutes 2\n", output)


def test_what_is_not_installed_is_built_first(tmp_path, call, python3):
    python3('case "$1" in -c) exit 1 ;; esac')
    status, output, errors = call("out", "--device", "cpu")
    assert status == 2 and f"the build failed; see {tmp_path}/out/build" in errors
    assert (tmp_path / "out" / "build" / "build.log").exists() and "cuda_graph" not in output


@pytest.mark.parametrize("words", [[], ["--device", "cpu"]])
def test_wrong_commands(call, words):
    status, output, errors = call(*words)
    assert status == 2 and not output
    assert errors == "gpu_results.sh: usage: bash bench/gpu_results.sh OUT [ROW ...] [OPTION ...]\n"


def test_the_help(tmp_path, call):
    status, output, _ = call("out", "--help")
    assert status == 0 and output.startswith("Trains rows of Table 6") and "Exit status: 0" in output
    assert not (tmp_path / "out").exists()
