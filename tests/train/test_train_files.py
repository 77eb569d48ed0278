"""Files of a run are believed only as they were written, and only by their own run."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from sgr_train import checkpoint, plots, train
from sgr_train.files import write
from train_helpers import TINY, TINY_FLAGS, files

MEASURED_TIME = {"seconds", "waited", "images_per_second", "peak_memory_bytes", "seconds_per_epoch"}


def result(folder: Path) -> dict[str, object]:
    """What a run found out, without what it took."""
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in MEASURED_TIME | {"run", "sha256"}}


def interrupt_after_training(folder: Path) -> None:
    (folder / "summary.json").unlink()


@pytest.fixture
def other_run(sgr_train, tmp_path) -> Path:
    assert sgr_train("run", *TINY_FLAGS, "--seed", 5, "--out", tmp_path / "other")[0] == 0
    return tmp_path / "other"


def flipped(content: bytes, place: float) -> bytes:
    """One bit of the byte at a relative place turned."""
    index = int(place * (len(content) - 1))
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        *(lambda content, place=place: flipped(content, place) for place in np.linspace(0, 1, 7)),
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"a text\n",
    ],
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(sgr_train, finished, damage, is_finished):
    path, expected = finished / "checkpoint.pt", result(finished)
    path.write_bytes(damage(path.read_bytes()))
    if not is_finished:
        interrupt_after_training(finished)
    status, text, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and errors.count("\n") == 1
    assert f"{path} is damaged" in errors and "going on from checkpoint.previous.pt, epoch 2" in errors
    assert "epoch 3/3" in text and result(finished) == expected
    assert sgr_train("run", "--resume", finished)[2] == ""  # all is well again


def damages(content: bytes) -> list[bytes]:
    """Cut at five lengths, one of them empty, and with one bit of 20 bytes turned: the first, the last, and between."""
    chance, size = random.Random(0), len(content)
    lengths = [0, 1, size // 2, size - 1, chance.randrange(size)]
    header, seal = range(64), range(size - 120, size)
    places = [0, size - 1, *chance.sample(header, 4), *chance.sample(range(size), 9), *chance.sample(seal, 5)]
    return [*(content[:length] for length in lengths), *(flipped(content, place / (size - 1)) for place in places)]


def test_every_damage_is_found_and_nothing_is_overwritten(finished, capsys):
    run = json.loads((finished / "config.json").read_text())["run"]
    path, previous = finished / "checkpoint.pt", finished / "checkpoint.previous.pt"
    whole, before = path.read_bytes(), previous.read_bytes()
    cases = damages(whole)
    assert len(cases) == 25 and len({*cases, whole}) == 26
    for content in cases:
        path.write_bytes(content)
        assert len(checkpoint.load_latest(finished, run)["history"]) == 2 and path.read_bytes() == content
        assert f"{path} " in capsys.readouterr().err
        assert len(checkpoint.load_latest(finished, run, repair=True)["history"]) == 2
        assert "; going on from checkpoint.previous.pt, epoch 2" in capsys.readouterr().err
        assert path.read_bytes() == previous.read_bytes() == before
    kept = [finished / f"checkpoint.pt.aside{number}" for number in ("", *(f"-{n}" for n in range(2, 26)))]
    assert [file.read_bytes() for file in kept] == cases


def test_with_both_last_checkpoints_damaged_the_best_is_there(sgr_train, finished):
    expected = result(finished)
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (finished / name).write_bytes(b"")
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and errors.count("\n") == 1 and "going on from checkpoint.best.pt, epoch 3" in errors
    assert result(finished) == expected
    assert {path.name for path in finished.glob("*.aside")} == {"checkpoint.pt.aside", "checkpoint.previous.pt.aside"}


@pytest.mark.parametrize("replace", ["nothing", "folder", "other"])
def test_a_checkpoint_that_is_not_this_run_s(sgr_train, finished, other_run, replace):
    path, expected = finished / "checkpoint.pt", result(finished)
    path.unlink()
    if replace == "folder":
        path.mkdir()
    elif replace == "other":
        shutil.copy(other_run / "checkpoint.pt", path)
    status, _, errors = sgr_train("run", "--resume", finished)
    said = {"nothing": "is missing", "folder": "cannot be read: Is a directory", "other": "belongs to another run"}
    aside = "" if replace == "nothing" else "kept as checkpoint.pt.aside; "
    assert status == 0 and f"{path} {said[replace]}; {aside}going on from checkpoint.previous.pt" in errors
    assert result(finished) == expected and (finished / "checkpoint.pt.aside").exists() == (replace != "nothing")


def test_only_damaged_checkpoints(sgr_train, finished):
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "checkpoint.best.pt"):
        (finished / name).write_bytes(flipped((finished / name).read_bytes(), 0.5))
    before = files(finished)
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 2 and errors.count("\n") == 1 and files(finished) == before
    assert "checkpoint.pt is damaged" in errors and "checkpoint.previous.pt is damaged" in errors and "--out" in errors


def test_a_damaged_checkpoint_is_never_kept_as_the_one_before(tiny):
    config = tiny(epochs=2)
    run, _ = train.train(config)
    (config.out / "checkpoint.pt").write_bytes(b"")
    train.train(config)
    for name, epochs in (("checkpoint.pt", 2), ("checkpoint.previous.pt", 1)):
        assert len(checkpoint.load_state(config.out / name, run.run_id)["history"]) == epochs


def test_without_links_the_one_before_is_copied_whole(tmp_path, monkeypatch):
    """To the disk itself: a crash of the system may come at once."""

    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino) or fsync(descriptor)
    )
    path, previous = tmp_path / "file", tmp_path / "previous"
    for content in (b"first", b"second", b"third"):
        write(path, content, previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"third", b"second")
    assert {file.stat().st_ino for file in (path, previous)} <= {*flushed}


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"command": "run"}', b"\xff"])
def test_a_damaged_config(sgr_train, finished, content, command):
    path = finished / "config.json"
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, _, errors = sgr_train(command, "--resume", finished)
    assert status == 2 and f"is not a run folder as written: {path} is " in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 6}, " (epochs is 6, not 3)"),
        ({"lr": 0.2}, " (lr is 0.2, not 0.1)"),
        ({"batch_size": 16, "seed": 1}, " (batch_size is 16, not 32, seed is 1, not 0)"),
        ({"weight_decay": None}, " (weight_decay is missing, not 0.0005)"),
        ({"cuts": [1]}, " (cuts is [1], not [])"),
        ({"run": "0123456789abcdef"}, ""),
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
def test_an_edited_config_is_named_and_refused(sgr_train, finished, changes, said, is_finished):
    path = finished / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if changes.get(name, 0) is not None}))
    if not is_finished:
        interrupt_after_training(finished)
    before = files(finished)
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 2 and f"{path} is damaged or was changed: its checksum does not match{said}; put it" in errors
    assert "another --out" in errors and errors.count("\n") == 1 and files(finished) == before


def test_the_config_of_another_run_is_refused(sgr_train, finished, other_run):
    shutil.copy(other_run / "config.json", finished / "config.json")
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 2 and "belongs to another run" in errors.splitlines()[-1]


@pytest.mark.parametrize("content", ["", "{}", "[]", "not JSON", "edited", "of another run"])
def test_a_summary_that_is_not_this_run_s_is_made_anew(sgr_train, finished, other_run, content):
    path, expected = finished / "summary.json", result(finished)
    if content == "edited":
        content = path.read_text().replace('"test_accuracy": 0.', '"test_accuracy": 0.9')
    elif content == "of another run":
        content = (other_run / "summary.json").read_text()
    path.write_text(content)
    status, text, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and errors.startswith(f"sgr-train: {path} ") and "made anew" in errors
    assert result(finished) == expected and f"test accuracy {expected['test_accuracy']:.2%}" in text


@pytest.mark.parametrize("content", [None, "", '{"epoch": 1}\n', "edited", "longer"])
def test_metrics_are_made_anew(sgr_train, finished, content):
    path = finished / "metrics.jsonl"
    expected = path.read_bytes()
    path.unlink()
    if content is not None:
        changed = {"edited": expected.replace(b'"loss": [', b'"loss": [1'), "longer": 2 * expected}
        path.write_bytes(changed.get(content, content.encode()))
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and f"{path} is missing, damaged or was changed; it is written anew" in errors
    assert path.read_bytes() == expected


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: flipped(content, 0.5), None])
def test_a_picture_is_drawn_anew(sgr_train, finished, damage):
    path = finished / "curves.png"
    expected = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage(expected))
    status, _, errors = sgr_train("run", "--resume", finished)
    assert status == 0 and path.read_bytes() == expected
    assert f"{path} is" in errors and "drawn anew" in errors and errors.count("\n") == 1


def test_a_picture_that_cannot_be_drawn_takes_nothing_with_it(sgr_train, tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("no\nfont")

    monkeypatch.setattr(plots, "of_run", refuse)
    monkeypatch.setattr(plots, "of_comparison", refuse)
    for command, picture in (("run", "curves.png"), ("compare", "comparison.png")):
        out = tmp_path / command
        flags = ("--methods", "bp", "--seeds", 0) if command == "compare" else ()
        status, text, errors = sgr_train(command, *TINY_FLAGS, "--epochs", 1, *flags, "--out", out)
        assert status == 0 and f"everything is in {out}" in text and (out / "summary.json").exists()
        assert f"{out / picture} could not be drawn (no font); everything else is written" in errors.splitlines()[-1]


def test_a_dollar_in_a_path_is_no_formula(sgr_train, tmp_path, write_npz):
    folder = tmp_path / "a$b_{$"
    folder.mkdir()
    data = write_npz().rename(folder / "data.npz")
    flags = ("--epochs", 1, "--depth", 3, "--data", f"npz:{data}", "--seeds", 0, "--methods", "bp")
    status, _, errors = sgr_train("compare", *flags, "--out", folder / "run")
    assert (status, errors) == (0, "")
    for picture in ("comparison.png", "bp-seed0/curves.png"):
        assert (folder / "run" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_comparison_survives_lost_and_swapped_files(sgr_train, tmp_path):
    out, flags = tmp_path / "comparison", (*TINY_FLAGS, "--methods", "layerwise", "sgr", "--seeds", 0)
    _, text, _ = sgr_train("compare", *flags, "--out", out)
    (out / "sgr-seed0" / "metrics.jsonl").unlink()
    shutil.copy(out / "layerwise-seed0" / "summary.json", out / "sgr-seed0" / "summary.json")
    status, again, errors = sgr_train("compare", "--resume", out)
    assert status == 0 and again == text and errors.count("\n") == 2
    assert "sgr-seed0/metrics.jsonl is missing" in errors and "sgr-seed0/summary.json belongs to another run" in errors


@pytest.mark.parametrize("other", ["settings", "data"])
def test_a_comparison_refuses_a_run_of_another_one(sgr_train, tmp_path, write_npz, other):
    flags = (*TINY_FLAGS, "--train-subset", 40, "--methods", "bp", "--seeds", 0, "--epochs", 1)
    for name, lr in (("two", 0.2), ("one", 0.1)):
        data = write_npz(test_labels=np.arange(20) % (2 if name == "two" else 3)) if other == "data" else write_npz()
        settings = ("--data", f"npz:{data}", "--lr", lr if other == "settings" else 0.1)
        assert sgr_train("compare", *flags, *settings, "--out", tmp_path / name)[0] == 0
    shutil.rmtree(tmp_path / "one" / "bp-seed0")
    shutil.copytree(tmp_path / "two" / "bp-seed0", tmp_path / "one" / "bp-seed0")
    status, _, errors = sgr_train("compare", "--resume", tmp_path / "one")
    assert status == 2 and errors.count("\n") == 1 and str(tmp_path / "one" / "bp-seed0") in errors
    said = {"settings": "other settings (lr is 0.2, not 0.1)", "data": "is not the data that the run in"}
    assert said[other] in errors


def test_an_edited_comparison_is_refused(sgr_train, tmp_path):
    out = tmp_path / "comparison"
    assert sgr_train("compare", *TINY_FLAGS, "--methods", "bp", "--seeds", 0, "--out", out)[0] == 0
    path = out / "config.json"
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 6'))
    status, _, errors = sgr_train("compare", "--resume", out)
    assert status == 2 and f"{path} is damaged or was changed" in errors and errors.count("\n") == 1


def test_a_run_killed_before_its_first_checkpoint_begins(sgr_train, finished):
    expected = result(finished)
    for path in finished.iterdir():
        if path.name != "config.json":
            path.unlink()
    status, text, errors = sgr_train("run", "--resume", finished)
    assert (status, errors) == (0, "") and "epoch 1/3" in text and result(finished) == expected


@pytest.mark.parametrize("name", ["checkpoint.pt", "metrics.jsonl"])
def test_a_folder_in_the_way_is_named(sgr_train, tmp_path, monkeypatch, name):
    original, out = train.setup, tmp_path / "run"

    def setup(config, *cuts):
        (out / f"{name}.part").mkdir(exist_ok=True)
        return original(config, *cuts)

    monkeypatch.setattr(train, "setup", setup)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--out", out)
    assert status == 2 and f"cannot write {out / name}.part: Is a directory; remove it" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("what", ["images", "labels", "order"])
@pytest.mark.parametrize("command", ["run", "choose"])
def test_a_run_goes_on_with_its_own_data_only(sgr_train, tmp_path, write_npz, command, what):
    path, out = write_npz(), tmp_path / "run"
    flags = {**TINY, "train_subset": 40, "width": 8, "epochs": 1}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    words += ["--weights", 0.1, "--seeds", 0] if command == "choose" else []
    assert sgr_train(command, "--data", f"npz:{path}", *words, "--out", out)[0] == 0
    for folder in {out, *(file.parent for file in out.rglob("summary.json"))}:
        (folder / "summary.json").unlink(missing_ok=True)
    with np.load(path) as archive:
        arrays = dict(archive)
    if what == "images":
        arrays["test_images"] = arrays["test_images"] ^ np.eye(20, 8, dtype=np.uint8)[:, :, None, None]
    elif what == "labels":
        arrays["train_labels"] = (arrays["train_labels"] + 1) % 3
    else:
        arrays = {name: array[::-1] for name, array in arrays.items()}
    write_npz(**arrays)
    status, _, errors = sgr_train(command, "--resume", out)
    assert status == 2 and errors.count("\n") == 1
    assert f"--data npz:{path} is not the data that the run in {out} began with" in errors
