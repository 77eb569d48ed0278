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


def copy(folder: pathlib.Path, *changes: tuple[str, str]) -> pathlib.Path:
    """The script as a project of its own in ``folder``, with some texts replaced."""
    script, text = folder / "bench" / "gpu.sh", SCRIPT.read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count == 1
    script.parent.mkdir()
    script.write_text(text)
    return script


def test_a_part_that_fails_stops_nothing_but_shows(tmp_path, python3):
    python3('case "$*" in *memory*) echo a broken part; exit 3 ;; *goals*) echo no goals ;; esac')
    process = start(tmp_path, "out", "memory", "step", "report")
    output, _ = process.communicate()
    assert process.returncode == 1
    assert summary(tmp_path / "out") == {"memory": 3, "step": 0, "report": 0}
    end = output[output.index("---") :]
    assert "--- the end of memory.log:" in end and "a broken part" in end and "no goals" in end
    assert end.endswith((tmp_path / "out" / "summary.txt").read_text())
    assert (tmp_path / "out" / "end.txt").read_text() == end
    log = (tmp_path / "out" / "step.log").read_text()
    assert re.search(r"wanted: -m sgr_bench step --whole --budget 3 --networks resnet50 .* --device cuda", log)


def test_all_parts_but_the_last_two_by_default(tmp_path, python3):
    python3('echo "backend: ${SGR_BACKEND-none}"')
    process = start(tmp_path, "out")
    process.communicate()
    statuses, out = summary(tmp_path / "out"), tmp_path / "out"
    parts = ["kernels", "test", "memcheck", "racecheck", "step", "micro", "gradients", "profile", "forced", "report"]
    assert process.returncode == 1 and statuses.keys() == {"build", *parts} and next(iter(statuses)) == "build"
    # compute-sanitizer and ncu are not there, or object to a program without CUDA
    assert {part for part, status in statuses.items() if status} == {"memcheck", "racecheck", "profile"}
    assert (out / "kernels.log").read_text().count("every_kernel --device cuda --dtypes") == 4
    assert "tests/triton/sgr_loss_cases.py" in (out / "test.log").read_text()
    assert {log.stem for log in out.glob("sanitize-*.log")} == {
        "sanitize-memcheck-cuda-bfloat16",
        "sanitize-memcheck-triton-bfloat16",
        "sanitize-racecheck-cuda-float32",
        "sanitize-racecheck-cuda-bfloat16",
    }
    backends = {part: re.findall("backend: (\\w+)", (out / f"{part}.log").read_text()) for part in ("step", "forced")}
    assert backends == {"step": ["none"], "forced": ["cuda", "triton"]}


def test_a_backend_of_the_surroundings_is_not_measured_as_the_default(tmp_path, python3, monkeypatch):
    monkeypatch.setenv("SGR_BACKEND", "reference")
    python3('echo "backend: ${SGR_BACKEND-none}"')
    start(tmp_path, "out", "micro").communicate()
    assert "backend: none" in (tmp_path / "out" / "micro.log").read_text()


def test_parts_that_may_run_side_by_side_do(tmp_path, python3):
    """Each of the two ends only if the other one has begun."""
    meet = "touch {}; i=0; until [ -e {} ] || [ $i -gt 200 ]; do sleep 0.1; i=$((i + 1)); done; [ -e {} ] ;;"
    cases = (("*every_kernel*", "a", "b", "b"), ("*pytest*", "b", "a", "a"))
    python3(f'case "$*" in {" ".join(f"{words}) {meet.format(*files)}" for words, *files in cases)} esac')
    script = copy(tmp_path)
    process = start(tmp_path, "out", "--device", "cpu", "kernels", "test", script=script)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert summary(tmp_path / "out") == {"kernels": 0, "test": 0}


def test_failing_tests_are_named_at_the_end(tmp_path):
    pytest.importorskip("xdist")
    script, tests = copy(tmp_path), tmp_path / "tests"
    tests.mkdir()
    (tests / "test_errors.py").write_text("def test_fails():\n    assert 1 == 2\ndef test_passes():\n    pass\n")
    process = start(tmp_path, "out", "--device", "cpu", "test", script=script)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert summary(tmp_path / "out") == {"test": 1}
    assert re.search(r"--- 1 tests failed; 1 failed, 1 passed", output), output
    assert re.search(r"test_errors.py::test_fails \[call\]\n    E +assert 1 == 2", output)


def test_tests_that_were_under_way_are_named_when_it_is_stopped(tmp_path):
    pytest.importorskip("xdist")
    script, tests = copy(tmp_path, (r"-n 2", "-n 1")), tmp_path / "tests"
    tests.mkdir()
    text = "import time\ndef test_fails():\n    assert 1 == 2\ndef test_sleeps():\n    time.sleep(60)\n"
    (tests / "test_errors.py").write_text(text)
    process = start(tmp_path, "out", "--device", "cpu", "test", script=script)
    running = tmp_path / "out" / "failures.txt.running"
    while not running.exists() or running.read_text() != "tests/test_errors.py::test_sleeps\n":
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and summary(tmp_path / "out")["test"] != 0
    assert "--- 1 tests failed" in output and "test_errors.py::test_fails [call]" in output
    assert "under way when the tests ended: tests/test_errors.py::test_sleeps" in output


def test_a_part_ends_when_its_time_is_over_and_the_next_one_runs(tmp_path, python3):
    python3('case "$*" in *memory*) exec sleep 60 ;; esac')
    script = copy(tmp_path, (r"(?m)^budget=\d+", "budget=11"))
    process = start(tmp_path, "out", "memory", "report", script=script)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert summary(tmp_path / "out") == {"memory": 124, "report": 0}


@pytest.mark.parametrize("parts", [["memory", "report"], ["kernels", "test", "report"]])
def test_what_is_there_is_packed_when_it_is_stopped(tmp_path, python3, parts):
    python3('case "$*" in *goals*) ;; *) exec sleep 60 ;; esac')
    process, logs = start(tmp_path, "out", *parts), [tmp_path / "out" / f"{part}.log" for part in parts[:-1]]
    while not all(log.exists() and "wanted" in log.read_text() for log in logs):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert summary(tmp_path / "out").keys() == set(parts[:-1])
    assert "--- a line a part" in output


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
    kept = {part: int(seconds) for part, seconds in re.findall(r"\[(\w+)\]=(\d\d+)", text)}
    told = re.findall(r"(?m)^  (\w+) +(\d+)(\+?)\s", output)
    assert {part: int(seconds) for part, seconds, _ in told} == kept
    *default, _, _ = told
    alone = [int(seconds) for _, seconds, beside in default if not beside]
    assert sum(alone) == int(re.search(r"(?m)^budget=(\d+)", text)[1]) <= 540
    assert {part for part, _, beside in told if beside} == set(re.findall(r"\[(\w+)\]=1\b", text))
    assert not (tmp_path / "out").exists()
