"""A run of a second, and the command line in this process."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sgr_train import cli
from sgr_train.config import RunConfig
from sgr_train.settings import make
from train_helpers import TINY, TINY_FLAGS

OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """``tiny(folder_name, **settings)``: a small run on the digits, in a folder that exists."""

    def tiny_run(name: str = "run", **given: object) -> RunConfig:
        out = tmp_path / name
        out.mkdir()
        return make(RunConfig, **{**TINY, "out": out, **given})

    return tiny_run


@pytest.fixture
def sgr_train(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``sgr_train("run", "--epochs", 3)`` -> exit status, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(["run", *TINY_FLAGS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """The folder of a finished run of three epochs, a copy for every test."""
    return Path(shutil.copytree(finished_once, tmp_path / "finished"))


@pytest.fixture(scope="session")
def compared_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "comparison"
    methods = ("--methods", "bp", "layerwise", "--seeds", "0")
    assert cli.main(["compare", *TINY_FLAGS, *methods, "--out", str(out)]) == 0
    return out


@pytest.fixture
def compared(compared_once: Path, tmp_path: Path) -> Path:
    """The folder of a finished comparison of two runs, a copy for every test."""
    return Path(shutil.copytree(compared_once, tmp_path / "comparison"))


@pytest.fixture
def permissions_count() -> Iterator[None]:
    """Permissions of files hold, also where the tests run as root: this thread gives up its right to pass over them."""
    if os.geteuid():
        yield
        return
    header = struct.pack("Ii", 0x20080522, 0)  # version 3 of the Linux call, this thread
    before = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; and once more, the upper 32 each
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, before):
        pytest.skip("root, and no capabilities to give up")
    effective, *others = struct.unpack("6I", before)
    assert libc.capset(header, struct.pack("6I", effective & ~OVERRIDE, *others)) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """``write_npz(**changes)``: a MedMNIST-style file of 60 + 20 images, arrays replaced, or left out where None."""

    def write(**changes: np.ndarray | None) -> Path:
        rng = np.random.default_rng(0)
        arrays = {
            "train_images": rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
            "train_labels": np.arange(60) % 3,
            "test_images": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
            "test_labels": np.arange(20) % 3,
        }
        path = tmp_path / "data.npz"
        np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})
        return path

    return write
