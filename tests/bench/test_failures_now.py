"""Failing tests are named in a file as they happen, with and without workers, and whatever ends the run."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

TESTS = """
import os, time, pytest

def test_passes():
    pass

@pytest.mark.parametrize("n", [1, 2])
def test_fails(n):
    assert n == 2, "two\\nlines"

@pytest.fixture
def broken():
    raise ValueError("no such thing")

def test_has_no_fixture(broken):
    pass

def test_crashes():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.abort()

def test_waits():
    if os.path.exists("wait"):
        time.sleep(60)
"""
FAILURES = {
    "test_it.py::test_fails[1] [call]": "AssertionError: two",
    "test_it.py::test_has_no_fixture [setup]": "ValueError: no such thing",
}
CRASH = {"test_it.py::test_crashes [???]": "crashed while running"}
needs_xdist = pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")


def start(folder, *options: str) -> subprocess.Popen:
    plugin = "-p", "sgr_bench.failures_now", "--failures-now=failures.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Even if we run in the background, where interrupts are ignored.
    interruptible = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=interruptible, **pipes)


def failures(folder) -> dict[str, str]:
    """Reasons by name and phase."""
    found: dict[str, str] = {}
    for line in (folder / "failures.txt").read_text().splitlines():
        if not line.startswith(" "):
            name, found[line] = line, ""
        else:
            found[name] += line
    return found


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=needs_xdist)])
def test_failures_are_named_with_their_reasons(tmp_path, workers):
    (tmp_path / "test_it.py").write_text(TESTS)
    process = start(tmp_path, *(("-n", workers) if importlib.util.find_spec("xdist") else ()))
    output, _ = process.communicate()
    assert process.returncode == 1, output
    expected = FAILURES if workers == "0" else FAILURES | CRASH
    found = failures(tmp_path)
    assert found.keys() == expected.keys(), output
    assert all(reason in found[name] for name, reason in expected.items())
    assert (tmp_path / "failures.txt.running").read_text() == ""


def test_what_cannot_be_collected_is_a_failure(tmp_path):
    (tmp_path / "test_it.py").write_text("import nothing_of_this_name")
    process = start(tmp_path)
    process.communicate()
    assert process.returncode == 2
    [(name, reason)] = failures(tmp_path).items()
    assert name == "test_it.py [collect]" and "No module named 'nothing_of_this_name'" in reason


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=needs_xdist)])
def test_what_was_under_way_is_known_where_time_is_up(tmp_path, workers):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "wait").write_text("")
    process = start(tmp_path, *(("-n", workers) if importlib.util.find_spec("xdist") else ()))
    running = tmp_path / "failures.txt.running"
    while not running.exists() or running.read_text() != "test_it.py::test_waits\n":
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert running.read_text() == "test_it.py::test_waits\n"
    assert failures(tmp_path).keys() == (FAILURES if workers == "0" else FAILURES | CRASH).keys()


def test_nothing_is_written_unless_asked_for(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_passes(): pass")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "sgr_bench.failures_now"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["test_it.py"]
