"""Folders and files that may not be read or written: what is shown of them, and what is said."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from sgr_train.folder import locked
from train_helpers import TINY_FLAGS, files

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="permissions of Linux"),
    pytest.mark.usefixtures("permissions_count"),
]


@pytest.fixture
def change(tmp_path):
    """``change(path, mode)`` until the end of the test."""
    changed = []

    def chmod(path: Path, mode: int) -> None:
        changed.append((path, path.stat().st_mode))
        path.chmod(mode)

    yield chmod
    for path, mode in reversed(changed):
        if path.exists():
            path.chmod(mode)


def one_error(result: tuple[int, str, str]) -> str:
    status, text, errors = result
    assert (status, text) == (2, "") and errors.count("\n") == 1, errors
    return errors


def test_the_lock_of_another_user_is_a_lock(sgr_train, finished, change):
    """Its file may be read but not written to, in a folder that may be written to."""
    with locked(finished):
        change(finished / "lock", 0o444)
        assert f"{finished} is in use" in one_error(sgr_train("run", "--resume", finished))
    (finished / "lock").touch(0o444)  # as somebody leaves it who is killed
    assert sgr_train("run", "--resume", finished)[0] == 0 and not (finished / "lock").exists()


def test_a_lock_that_cannot_be_opened_is_named(sgr_train, finished, change):
    (finished / "lock").touch(0o000)
    errors = one_error(sgr_train("run", "--resume", finished))
    assert f"cannot write {finished / 'lock'}: Permission denied; make it writable" in errors


def test_the_lock_of_a_read_only_folder_is_a_lock(sgr_train, finished, change):
    with locked(finished):
        change(finished, 0o555)
        assert f"{finished} is in use" in one_error(sgr_train("run", "--resume", finished))
        finished.chmod(0o755)


def test_a_finished_run_in_a_read_only_folder_is_shown(sgr_train, finished, change):
    change(finished, 0o555)
    before = files(finished)
    status, text, errors = sgr_train("run", "--resume", finished)
    assert (status, errors) == (0, "") and "test accuracy" in text and files(finished) == before


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o666])
def test_a_folder_that_may_not_be_looked_into(sgr_train, compared, finished, change, mode):
    change(finished, mode)
    errors = one_error(sgr_train("run", "--resume", finished))
    assert f"{finished / 'config.json'} cannot be read: Permission denied; make " in errors and "readable" in errors
    run = compared / "bp-seed0"
    change(run, mode)
    errors = one_error(sgr_train("compare", "--resume", compared))
    assert str(run) in errors and "cannot be read: Permission denied; make " in errors and "readable" in errors


@pytest.mark.parametrize("name", ["checkpoint.pt", "summary.json", "config.json"])
def test_a_file_that_may_not_be_read_is_not_taken_for_damaged(sgr_train, finished, change, name):
    before = files(finished)
    change(finished / name, 0o000)
    errors = one_error(sgr_train("run", "--resume", finished))
    assert f"{finished / name} cannot be read: Permission denied; make it readable" in errors
    (finished / name).chmod(0o644)
    assert files(finished) == before


def test_a_finished_comparison_in_read_only_folders_is_shown(sgr_train, compared, change):
    before, text = files(compared), sgr_train("compare", "--resume", compared)[1]
    for folder in (compared, *filter(Path.is_dir, compared.iterdir())):
        change(folder, 0o555)
    assert sgr_train("compare", "--resume", compared) == (0, text, "") and files(compared) == before


@pytest.mark.parametrize("damage", ["emptied", "removed", "a folder", "not readable"])
@pytest.mark.parametrize("writable", [True, False])
def test_a_picture_takes_no_result_with_it(sgr_train, finished, change, damage, writable):
    path = finished / "curves.png"
    if damage == "not readable":
        change(path, 0o000)
    else:
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage == "emptied":
        path.touch()
    change(finished, 0o755 if writable else 0o555)
    status, text, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and "test accuracy" in text and errors.count("\n") == 1 and str(path) in errors
    drawn = writable and damage != "a folder"
    assert ("drawn anew" in errors) == drawn and ("could not be drawn (cannot write" in errors) != drawn


def test_a_limit_of_the_size_of_files_is_named(sgr_train, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "fsync", refuse)
    errors = one_error(sgr_train("run", *TINY_FLAGS, "--out", tmp_path / "run"))
    assert "File too large; raise the largest size of a file (ulimit -f); nothing was written\n" in errors
