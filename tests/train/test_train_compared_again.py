"""Comparisons that are resumed: one bad run of several, and runs whose checkpoints were removed to save space."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from train_helpers import files

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt", "checkpoint.best.pt")


def remove_checkpoints(folder: Path) -> None:
    for name in CHECKPOINTS:
        (folder / name).unlink()


def test_a_finished_run_without_its_checkpoints_is_shown(sgr_train, finished):
    text = sgr_train("run", "--resume", finished)[1]
    remove_checkpoints(finished)
    before = files(finished)
    status, again, errors = sgr_train("run", "--resume", finished)
    assert (status, again) == (0, text) and files(finished) == before
    shown = "its summary is shown, its metrics and pictures are as found"
    assert errors == f"sgr-train: {finished} has no checkpoint any more; {shown}\n"


@pytest.mark.parametrize("damage", ["summary", "config"])
def test_without_checkpoints_the_rest_must_be_in_order(sgr_train, finished, damage, monkeypatch):
    remove_checkpoints(finished)
    monkeypatch.chdir(finished)
    path = finished / f"{damage}.json"
    path.write_text(path.read_text().replace("0.", "1."))
    status, text, errors = sgr_train("run", "--resume", ".")
    assert (status, text) == (2, "") and "start again with another --out" in errors.splitlines()[-1]


@pytest.mark.parametrize("metrics", ["kept", "removed", "emptied", "half"])
def test_a_comparison_without_checkpoints_is_shown(sgr_train, compared, metrics):
    text, picture = sgr_train("compare", "--resume", compared)[1], (compared / "comparison.png").read_bytes()
    remove_checkpoints(compared / "bp-seed0")
    path = compared / "bp-seed0" / "metrics.jsonl"
    if metrics == "removed":
        path.unlink()
    elif metrics != "kept":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if metrics == "half" else 0])
    status, again, errors = sgr_train("compare", "--resume", compared)
    assert (status, again) == (0, text) and "bp-seed0 has no checkpoint any more" in errors
    assert (compared / "comparison.png").read_bytes() == picture
    assert errors.count("\n") == (1 if metrics == "kept" else 2)
    if metrics != "kept":
        assert f"comparison.png could not be drawn ({path} " in errors.splitlines()[-1]


@pytest.mark.parametrize("damage", ["checkpoints", "config"])
def test_the_remedy_for_one_bad_run_is_to_remove_it(sgr_train, compared, damage):
    folder = compared / "layerwise-seed0"
    text = sgr_train("compare", "--resume", compared)[1]
    for name in ("config.json",) if damage == "config" else CHECKPOINTS:
        (folder / name).write_bytes(b"")
    status, _, errors = sgr_train("compare", "--resume", compared)
    assert status == 2 and "damaged" in errors and errors.count("\n") == 1
    assert errors.removesuffix("\n").removesuffix(")").endswith(f"remove {folder} to train it again")
    assert "--out" not in errors
    shutil.rmtree(folder)
    status, again, errors = sgr_train("compare", "--resume", compared)
    assert (status, errors) == (0, "")
    accuracy = [line for line in text.splitlines() if line.startswith("[")]
    assert [line for line in again.splitlines() if line.startswith("[")] == accuracy
    assert json.loads((compared / "summary.json").read_text())["failed"] == []
