"""Disks, folders and people that are in the way of a run: it ends in one line that says how to go on, and then does."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sgr_train import checkpoint, environment, networks, train
from sgr_train.files import read_json
from train_helpers import TINY_FLAGS, files

FILES = ("config.json", "checkpoint.pt", "checkpoint.best.pt", "metrics.jsonl", "summary.json")
TIMES = {"seconds", "images_per_second", "peak_memory_bytes", "seconds_per_epoch"}


@pytest.fixture
def full_disk(monkeypatch):
    """``full_disk(name, number)``: from its ``number``-th on, a file of this name cannot be written."""

    def fill(name: str, number: int) -> pytest.MonkeyPatch:
        original, count = os.fsync, []

        def fsync(descriptor):
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/{name}.part"):
                count.append(name)
                if len(count) >= number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        return monkeypatch

    return fill


@pytest.fixture
def in_epoch_2(monkeypatch):
    """``in_epoch_2(act)``: somebody acts before the second epoch is measured."""

    def plan(act) -> None:
        original, calls = train.measure, []

        def measure(*args):
            calls.append(args)
            if len(calls) == 2:
                act()
            return original(*args)

        monkeypatch.setattr(train, "measure", measure)

    return plan


def weights(folder: Path) -> list[torch.Tensor]:
    network = checkpoint.load_state(folder / checkpoint.CHECKPOINT)["network"]
    return [tensor for tensor in network.values() if isinstance(tensor, torch.Tensor)]


def same(one: Path, other: Path) -> bool:
    return all(a.equal(b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="the files of a process are found as on Linux")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_in_each_file(sgr_train, finished, tmp_path, full_disk, name, number):
    """The first time that it is written, and the second, if there is one."""
    out = tmp_path / "run"
    patch = full_disk(name, number)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--out", out)
    patch.undo()
    if number == 2 and name in ("config.json", "summary.json"):  # they are written once
        assert status == 0
        return
    assert status == 2 and errors.count("\n") == 1 and not list(tmp_path.rglob("*.part"))
    said = f"sgr-train: cannot write {out / name}: No space left on device; free some space; "
    if name == "config.json":
        assert errors == f"{said}nothing was written\n" and not out.exists()
        return
    command = f"sgr-train run --resume {out}"
    assert errors == f"{said}what was saved is kept; continue with: {command}\n"
    status, _, errors = sgr_train(*shlex.split(command)[1:])
    assert (status, errors) == (0, "") and same(out, finished)
    assert (out / checkpoint.BEST).read_bytes() and (out / "metrics.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the files of a process are found as on Linux")
def test_a_full_disk_in_one_run_of_a_comparison(sgr_train, tmp_path, full_disk):
    out = tmp_path / "comparison"
    patch = full_disk("layerwise-seed0/checkpoint.pt", 1)
    flags = (*TINY_FLAGS, "--methods", "bp", "layerwise", "--seeds", 0)
    status, text, errors = sgr_train("compare", *flags, "--out", out)
    patch.undo()
    assert status == 2 and "without layerwise seed 0, which failed" in text and errors.count("\n") == 1
    assert errors.endswith(f"what was saved is kept; continue with: sgr-train compare --resume {out}\n")
    assert sgr_train("compare", "--resume", out)[::2] == (0, "")


@pytest.mark.parametrize("what", ["removed", "moved", "a file", "another run", "lock"])
def test_a_folder_that_is_taken_away(sgr_train, finished, tmp_path, in_epoch_2, what):
    """Nothing is written any more to where it was; where it is now, the run goes on."""
    out, now = tmp_path / "run", tmp_path / "moved"
    after = {}

    def act():
        if what == "lock":
            (out / "lock").unlink()
        else:
            shutil.move(out, now)
        if what == "a file":
            out.write_text("")
        if what == "another run":
            shutil.copytree(finished, out)
            (out / "lock").touch()
        after.update(files(tmp_path))
        if what == "removed":
            shutil.rmtree(now)

    in_epoch_2(act)
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--out", out)
    assert status == 2 and errors.count("\n") == 1
    assert "epoch 1/3" in text and "epoch 2/3" not in text
    assert f"{out} was moved, removed or replaced while we used it" in errors
    if what == "removed":
        assert [path for path in tmp_path.iterdir() if path != finished] == []
        return
    assert files(tmp_path) == after
    assert "continue with --resume where it is now" in errors
    where = out if what == "lock" else now
    status, _, errors = sgr_train("run", "--resume", where)
    assert (status, errors) == (0, "") and same(where, finished)


def test_a_folder_that_is_closed_meanwhile(sgr_train, finished, tmp_path, in_epoch_2, permissions_count):
    out = tmp_path / "run"
    in_epoch_2(lambda: out.chmod(0o555))
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--out", out)
    out.chmod(0o755)
    assert status == 2 and errors.count("\n") == 1 and "Permission denied; make it writable; what was saved" in errors
    assert sgr_train("run", "--resume", out)[0] == 0 and same(out, finished)


def test_no_space_for_the_lock_leaves_no_folder(sgr_train, tmp_path, monkeypatch):
    original = os.open

    def full(path, *rest):
        if str(path).endswith("lock"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, *rest)

    monkeypatch.setattr(os, "open", full)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--out", tmp_path / "deep" / "run")
    assert status == 2 and "No space left on device" in errors and not (tmp_path / "deep" / "run").exists()


# --- files of the user's own ------------------------------------------------------------------------------------------

PLUGIN = '''
from sgr_train.networks import register
from torch import nn


@register("NAME")
def network(image_shape, *, width: int = 8):
    """Two linear layers.

    Args:
        width: Of the first.
    """
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU()), nn.Sequential(nn.Linear(width, 8), nn.ReLU())]
'''


@pytest.fixture
def of_a_plugin(sgr_train, tmp_path, monkeypatch):
    """The folder of a run of one epoch with a plug-in, that was not tested; and the plug-in's file."""
    entries = {name: networks.REGISTRY.find(name) for name in networks.names()}
    monkeypatch.setattr(networks.REGISTRY, "_entries", entries)  # other tests go through all that are there
    file, out = tmp_path / "plug.py", tmp_path / "run"
    file.write_text(PLUGIN.replace("NAME", f"net_{tmp_path.name}"))
    flags = ("--plugin", file, "--model", f"net_{tmp_path.name}", "--head", "linear", "--epochs", 1)
    assert sgr_train("run", "--train-subset", 128, *flags, "--out", out)[0] == 0
    (out / "summary.json").unlink()
    return out, file


@pytest.mark.parametrize("change", ["a comment", "a width", "removed"])
@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_plugin_that_was_changed(sgr_train, of_a_plugin, change, command):
    out, file = of_a_plugin
    text, before = file.read_text(), files(out)
    file.unlink()
    if change != "removed":
        file.write_text(text + "# more" if change == "a comment" else text.replace("width, 8", "width, 9"))
    words = ("run", "--resume", out) if command == "run" else ("evaluate", out)
    status, _, errors = sgr_train(*words)
    assert f"--plugin {file} " in errors and errors.count("\n") == 1 and files(out) == before
    changed = f"is not the file that the run in {out} began with"
    assert ("cannot be read: No such file" if change == "removed" else changed) in errors
    assert status == (0 if command == "evaluate" else 2)
    file.write_text(text)
    assert sgr_train(*words)[::2] == (0, "")


def test_a_finished_run_of_a_changed_plugin_is_shown(sgr_train, of_a_plugin):
    out, file = of_a_plugin
    assert sgr_train("run", "--resume", out)[0] == 0
    file.write_text("")
    assert sgr_train("run", "--resume", out)[::2] == (0, "")


def test_data_that_is_gone_is_named(sgr_train, tmp_path, write_npz):
    path, out = write_npz(), tmp_path / "run"
    flags = ("--train-subset", 40, "--width", 8, "--depth", 3, "--epochs", 1)
    assert sgr_train("run", "--data", f"npz:{path}", *flags, "--out", out)[0] == 0
    (out / "summary.json").unlink()
    kept, before = path.read_bytes(), files(out)
    path.unlink()
    status, _, errors = sgr_train("run", "--resume", out)
    assert status == 2 and str(path) in errors and errors.count("\n") == 1 and files(out) == before
    path.write_bytes(kept)
    assert sgr_train("run", "--resume", out)[::2] == (0, "")


# --- the environment --------------------------------------------------------------------------------------------------


def environments(out: Path) -> list[dict]:
    return read_json(out / "config.json")["environments"]


def test_the_environment_is_kept_from_the_beginning(sgr_train, tiny, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sgr-train", "run", "--out", "a b"])
    config = tiny(epochs=1)
    train.train(config)
    [found] = environments(config.out)
    assert found["python"] == sys.version.split()[0] and found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads() and found["command"] == "sgr-train run --out 'a b'"
    assert {"sgr_kernels", "cuda", "device", "revision"} <= found.keys() and found["device"]


def test_another_environment_is_told_and_kept(sgr_train, finished, monkeypatch):
    [before] = environments(finished)
    (finished / "summary.json").unlink()
    assert sgr_train("run", "--resume", finished)[2] == "" and environments(finished) == [before]
    (finished / "summary.json").unlink()
    monkeypatch.setattr(torch, "__version__", "9.9")
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and errors.count("\n") == 1
    assert f"(torch is 9.9, was {before['torch']}); the last digits may differ" in errors
    first, now = environments(finished)
    assert first == before and now["torch"] == "9.9"
    (finished / "summary.json").unlink()
    assert sgr_train("run", "--resume", finished)[2] == "" and len(environments(finished)) == 2
    assert sgr_train("extend", finished, "--epochs", 4)[2] == "" and len(environments(finished)) == 2


def test_only_runs_that_go_on_are_in_another_environment(sgr_train, compared, monkeypatch):
    (compared / "bp-seed0" / "summary.json").unlink()
    monkeypatch.setattr(torch, "__version__", "9.9")
    status, _, errors = sgr_train("compare", "--resume", compared)
    assert status == 0 and errors.count("\n") == 1
    assert f"{compared / 'bp-seed0'} goes on in another environment (torch is 9.9" in errors
    assert [len(environments(compared / name)) for name in (".", "bp-seed0", "layerwise-seed0")] == [1, 2, 1]


def test_the_revision_is_that_of_the_checkout():
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("no checkout")
    environment.revision.cache_clear()
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert environment.describe(torch.device("cpu"))["revision"].removesuffix("-dirty") == head
