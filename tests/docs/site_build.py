"""A build of the documentation, as ``make docs`` makes it, in another folder."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pages


class Site(NamedTuple):
    """Where its pages are, the exit status of the build, and what was said."""

    folder: pathlib.Path
    status: int
    said: str


def build(source: pathlib.Path, out: pathlib.Path) -> Site:
    """With the flags of the Makefile."""
    [command] = [line for line in (pages.ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line]
    words = command.partition("-m sphinx")[2].split()
    folders = ["-b", "html", "-d", str(out / "doctrees"), str(source), str(out / "html")]
    process = subprocess.run(
        [sys.executable, "-m", "sphinx", *words[: words.index("-b")], *folders],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return Site(out / "html", process.returncode, process.stdout + process.stderr)
