"""The site, built once."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pages
import pytest


class Site(NamedTuple):
    """A build of the documentation: where it is, and what was said."""

    folder: pathlib.Path
    status: int
    said: str


def build(source: pathlib.Path, out: pathlib.Path, *options: str) -> Site:
    """As ``make docs`` builds it, elsewhere."""
    [command] = [line for line in (pages.ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line]
    words = command.partition("-m sphinx")[2].split()
    flags = words[: words.index("-b")]
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            *flags,
            *options,
            "-b",
            "html",
            "-d",
            str(out / "doctrees"),
            source,
            out / "html",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return Site(out / "html", process.returncode, process.stdout + process.stderr)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(pages.ROOT / "docs", tmp_path_factory.mktemp("site"))
