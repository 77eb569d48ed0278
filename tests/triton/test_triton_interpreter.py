"""Runs all *_cases.py: in Triton's interpreter everywhere, and on the GPU where there is one.

Each run has a process of its own. TRITON_INTERPRET is read when a kernel is defined, so one process cannot do both.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from helpers import version_of

pytest.importorskip("triton.language")

HERE = pathlib.Path(__file__).parent
CASES = sorted(path.name for path in HERE.glob("*_cases.py"))


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("where", ["interpreter", "gpu"])
def test_kernels(where, cases, tmp_path):
    if where == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is available")
    if where == "interpreter" and version_of("triton") < (3, 7) and version_of("numpy") >= (2, 4):
        pytest.skip("the interpreter of this Triton takes arrays for numbers, which this NumPy refuses")
    environment = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "SGR_BACKEND")}
    if where == "interpreter":
        environment["TRITON_INTERPRET"] = "1"
    report = tmp_path / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        str(HERE / cases),
    ]
    inner = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert inner.returncode == 0, inner.stdout + inner.stderr
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert int(suite.get("tests")) > 0
    assert int(suite.get("skipped")) == 0, inner.stdout
