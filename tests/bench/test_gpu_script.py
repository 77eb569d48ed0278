"""bench/gpu.sh without a GPU: with parts that run here, and with a python3 that only says what it was asked for."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "bench" / "gpu.sh"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None or shutil.which("timeout") is None, reason="no coreutils")


def start(folder: pathlib.Path, *words: str, script: pathlib.Path = SCRIPT) -> subprocess.Popen:
    """``python3`` is the one in ``folder``, where its folder ``bin`` has one."""
    path = f"{folder / 'bin'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(script), *words]
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def summary(out: pathlib.Path) -> dict[str, int]:
    """Exit status by part. Everything is in the archive."""
    with tarfile.open(out / "all.tar.gz") as archive:
        assert set(archive.getnames()) == {path.name for path in out.iterdir()} - {"all.tar.gz"}
    rows = [line.split() for line in (out / "summary.txt").read_text().splitlines()]
    assert all((out / f"{part}.log").exists() for part, *_ in rows)
    assert all(re.fullmatch(r"\d+", seconds) and unit == "s" for _, _, seconds, unit in rows)
    return {part: int(status) for part, status, _, _ in rows}


@pytest.fixture
def python3(tmp_path):
    """``python3(script)``: what sh does in its place, after it has said what was wanted."""

    def write(script: str = "") -> None:
        program = tmp_path / "bin" / "python3"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "wanted: $*"\n{script}\n')
        program.chmod(0o755)

    return write


def test_on_the_cpu(tmp_path):
    process = start(tmp_path, "out", "--device", "cpu", "kernels", "roofline")
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    out = tmp_path / "out"
    assert summary(out) == {"kernels": 0, "roofline": 0}
    assert "cpu sgr_residual float64" in (out / "kernels.log").read_text()
    result = json.loads((out / "roofline-cpu.json").read_text())
    assert result["rows"] and "--quick" in result["command"]


def test_a_part_that_fails_stops_nothing_but_shows(tmp_path, python3):
    python3('case "$*" in *micro*) echo a wrong kernel; exit 3 ;; esac')
    process = start(tmp_path, "out", "micro", "step", "report")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert summary(tmp_path / "out") == {"micro": 3, "step": 0, "report": 0}
    assert "--- the end of micro.log:" in output and "a wrong kernel" in output
    assert "wanted: -m sgr_bench step --budget 5 --device cuda" in (tmp_path / "out" / "step.log").read_text()


def test_all_parts_but_the_last_by_default(tmp_path, python3):
    python3()
    process = start(tmp_path, "out")
    process.communicate()
    parts = ["build", "kernels", "test", "sanitize", "roofline", "micro", "step", "memory", "report"]
    assert process.returncode == 1  # compute-sanitizer is not there, or objects to a program without CUDA
    assert {part: status != 0 for part, status in summary(tmp_path / "out").items()} == {
        part: part == "sanitize" for part in parts
    }
    assert (tmp_path / "out" / "kernels.log").read_text().count("every_kernel --device cuda --dtypes") == 4
    assert "test.xml tests -o python_files=test_*.py *_cases.py" in (tmp_path / "out" / "test.log").read_text()


def test_a_part_ends_when_its_time_is_over(tmp_path, python3):
    python3("exec sleep 60")
    script = tmp_path / "bench" / "gpu.sh"
    script.parent.mkdir()
    script.write_text(re.sub(r"(?m)^budget=\d+", "budget=1", SCRIPT.read_text()))
    process = start(tmp_path, "out", "memory", script=script)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert summary(tmp_path / "out") == {"memory": 124}


def test_what_is_there_is_packed_when_it_is_stopped(tmp_path, python3):
    python3("exec sleep 60")
    process, log = start(tmp_path, "out", "memory", "report"), tmp_path / "out" / "memory.log"
    while not log.exists() or "wanted" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert list(summary(tmp_path / "out")) == ["memory"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: bash bench/gpu.sh OUT"),
        (["out", "bild"], "no part bild; there are build kernels test"),
        (["out", "--device", "tpu", "micro"], "--device must be cpu or cuda"),
        (["out", "--device"], "--device must be cpu or cuda"),
    ],
)
def test_wrong_commands(tmp_path, words, message):
    process = start(tmp_path, *words)
    output, errors = process.communicate()
    assert process.returncode == 2 and not output
    assert message in errors


def test_the_help_tells_how_long_the_parts_take(tmp_path):
    output, _ = start(tmp_path, "out", "--help").communicate()
    text = SCRIPT.read_text()
    kept = {part: int(seconds) for part, seconds in re.findall(r"\[(\w+)\]=(\d+)", text)}
    assert {part: int(seconds) for part, seconds in re.findall(r"(?m)^  (\w+) +(\d+)\b", output)} == kept
    *default, _ = kept
    assert sum(kept[part] for part in default) == int(re.search(r"(?m)^budget=(\d+)", text)[1]) <= 540
    assert not (tmp_path / "out").exists()
