"""A run folder has one owner."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sgr_train
from sgr_train import cli, folder, train
from sgr_train.folder import locked
from train_helpers import TINY_FLAGS, files


@pytest.fixture
def second_run(monkeypatch, capsys):
    """``second_run(*flags)``: a run that begins in the middle of the beginning of another one, that with seed 1."""

    def plan(*flags: object) -> list[int]:
        statuses, original = [], train.setup

        def setup(config, *cuts):
            if config.seed == 1:
                statuses.append(cli.main(["run", *TINY_FLAGS, *map(str, flags)]))
            return original(config, *cuts)

        monkeypatch.setattr(train, "setup", setup)
        return statuses

    return plan


def seeds(folders: list[Path]) -> list[int]:
    return sorted(json.loads((folder / "summary.json").read_text())["seed"] for folder in folders)


def test_two_runs_in_one_second_have_two_folders(sgr_train, second_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    statuses = second_run("--seed", 2)
    assert sgr_train("run", *TINY_FLAGS, "--seed", 1)[0] == 0 and statuses == [0]
    assert seeds(list((tmp_path / "runs").iterdir())) == [1, 2]


def test_a_folder_is_not_given_to_two_runs(sgr_train, second_run, tmp_path):
    out = tmp_path / "run"
    statuses = second_run("--seed", 2, "--out", out)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--seed", 1, "--out", out)
    assert status == 0 and statuses == [2]
    assert errors == f"sgr-train: {out} is in use by another sgr-train; wait for it or choose another --out\n"
    assert seeds([out]) == [1] and not (out / "lock").exists()


def test_a_run_is_not_resumed_twice_at_once(sgr_train, finished):
    before = files(finished)
    with locked(finished):
        status, text, errors = sgr_train("run", "--resume", finished)
    assert (status, text) == (2, "") and f"{finished} is in use" in errors and errors.count("\n") == 1
    assert files(finished) == before
    assert sgr_train("run", "--resume", finished)[0] == 0


def test_a_run_of_a_comparison_is_not_resumed_at_once(sgr_train, tmp_path):
    out = tmp_path / "comparison"
    flags = (*TINY_FLAGS, "--methods", "bp", "--seeds", 0)
    assert sgr_train("compare", *flags, "--out", out)[0] == 0
    with locked(out / "bp-seed0"):
        status, _, errors = sgr_train("compare", "--resume", out)
    assert status == 2 and f"(bp seed 0: {out / 'bp-seed0'} is in use" in errors


def test_a_killed_owner_leaves_no_lock(sgr_train, finished):
    code = (
        "import pathlib, sys, time\nfrom sgr_train.folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(finished)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "locked\n"
        assert sgr_train("run", "--resume", finished)[0] == 2
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    assert (finished / "lock").exists()
    assert sgr_train("run", "--resume", finished)[0] == 0


def test_what_a_killed_beginner_left_is_no_obstacle(sgr_train, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "lock").touch()
    (out / "config.json.part").write_text("{")
    assert sgr_train("run", *TINY_FLAGS, "--out", out)[0] == 0


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path, monkeypatch):
    """Its last owner removes the file between our opening and our locking it; meanwhile somebody makes a new one."""
    original, removed = folder._lock, []

    def lock(descriptor):
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        original(descriptor)

    monkeypatch.setattr(folder, "_lock", lock)
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(folder.UsageError, match="in use"), locked(tmp_path):
            pass


def test_a_tilde_is_the_home_folder(sgr_train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert sgr_train("run", *TINY_FLAGS, "--epochs", 1, "--out", "~/run")[0] == 0
    status, text, _ = sgr_train("run", "--resume", "~/run")
    assert status == 0 and str(tmp_path / "run") in text and not (tmp_path / "~").exists()


def test_without_locks_a_note_says_so(sgr_train, finished, monkeypatch):
    def lock(descriptor):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder, "_lock", lock)
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and "file system without locks" in errors and errors.count("\n") == 1


def test_a_finished_run_on_a_read_only_file_system_is_shown(sgr_train, finished, monkeypatch):
    before = files(finished)
    monkeypatch.setattr(folder.os, "open", raise_read_only)
    monkeypatch.setattr(Path, "open", opened_to_read(Path.open))
    monkeypatch.setattr(Path, "unlink", raise_read_only)
    status, text, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and "test accuracy" in text and errors == "" and files(finished) == before
    (finished / "metrics.jsonl").write_text("")
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 2 and "cannot write" in errors.splitlines()[-1] and "Read-only" in errors.splitlines()[-1]


def raise_read_only(*_, **__):
    raise OSError(30, "Read-only file system")


def opened_to_read(original):
    """Of files that are written as bytes, as those of runs are."""
    return lambda path, mode="r", *rest, **more: (raise_read_only if mode == "wb" else original)(
        path, mode, *rest, **more
    )


def test_a_folder_in_place_of_the_lock_is_named(sgr_train, finished):
    (finished / "lock").mkdir()
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 2 and f"cannot write {finished / 'lock'}: Is a directory; remove it" in errors


def test_a_folder_of_a_run_that_was_refused_is_gone(sgr_train, tmp_path):
    existing = tmp_path / "existing"
    existing.mkdir()
    for out in (tmp_path / "deep" / "run", existing):
        assert sgr_train("run", "--width", 2, "--out", out)[0] == 2
        assert out.exists() == (out == existing) and files(tmp_path) == {}


def test_every_module_imports_without_fcntl_and_resource(monkeypatch):
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    names = sorted(path for path in Path(sgr_train.__file__).parent.glob("*.py") if path.stem != "__main__")
    assert len(names) > 10
    for path in names:
        spec = importlib.util.spec_from_file_location(f"sgr_train.again_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
