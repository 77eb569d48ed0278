"""``sgr-train extend``: a run goes on for more epochs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from sgr_train import checkpoint
from train_helpers import TINY_FLAGS

CONSTANT = ("--schedule", "step", "--milestones", 100)


def weights(folder) -> list[torch.Tensor]:
    network = checkpoint.load_state(folder / checkpoint.CHECKPOINT)["network"]
    return [tensor for tensor in network.values() if isinstance(tensor, torch.Tensor)]


@pytest.fixture
def short(sgr_train, tmp_path):
    """Two epochs of three, at a constant learning rate."""
    assert sgr_train("run", *TINY_FLAGS, *CONSTANT, "--epochs", 2, "--out", tmp_path / "short")[0] == 0
    return tmp_path / "short"


def test_it_ends_as_if_begun_with_as_many(sgr_train, short, tmp_path):
    assert sgr_train("run", *TINY_FLAGS, *CONSTANT, "--epochs", 3, "--out", tmp_path / "long")[0] == 0
    status, text, errors = sgr_train("extend", short, "--epochs", 3)
    assert (status, errors) == (0, "") and "epoch 3/3" in text and "epoch 2/3" not in text
    assert all(a.equal(b) for a, b in zip(weights(short), weights(tmp_path / "long"), strict=True))
    assert json.loads((short / "summary.json").read_text())["epochs"] == 3


def test_an_interrupt_before_the_first_new_epoch_loses_nothing(sgr_train, short, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_json", interrupt)  # after the summary of the old epochs is gone
    assert sgr_train("extend", short, "--epochs", 3)[0] == 130
    monkeypatch.undo()
    assert not (short / "summary.json").exists()
    assert sgr_train("run", "--resume", short)[0] == 0
    assert json.loads((short / "summary.json").read_text())["epochs"] == 2
    assert sgr_train("extend", short, "--epochs", 3)[0] == 0


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [2, 1, -1])
def test_fewer_epochs_are_refused(sgr_train, short, epochs):
    before = (short / "config.json").read_bytes()
    status, _, errors = sgr_train("extend", short, "--epochs", epochs)
    assert status == 2 and f"--epochs must be more than the 2 of the run in {short}, got {epochs}" in errors
    assert (short / "config.json").read_bytes() == before and (short / "summary.json").exists()


def test_a_run_of_a_comparison_is_extended_outside_of_it(sgr_train, tmp_path):
    flags = (*TINY_FLAGS, *CONSTANT, "--epochs", 1, "--methods", "bp", "--seeds", 0)
    assert sgr_train("compare", *flags, "--out", tmp_path / "both")[0] == 0
    before = (tmp_path / "both" / "bp-seed0" / "config.json").read_bytes()
    status, _, errors = sgr_train("extend", tmp_path / "both" / "bp-seed0", "--epochs", 2)
    assert status == 2 and f"is one of the runs of {tmp_path / 'both'}" in errors
    assert (tmp_path / "both" / "bp-seed0" / "config.json").read_bytes() == before
    shutil.copytree(tmp_path / "both" / "bp-seed0", tmp_path / "alone")
    assert sgr_train("extend", tmp_path / "alone", "--epochs", 2)[0] == 0


def test_a_method_with_phases_is_refused(sgr_train, tmp_path):
    run = tmp_path / "run"
    flags = (*TINY_FLAGS, "--depth", 2, "--epochs", 1, "--method", "greedy")
    assert sgr_train("run", *flags, "--out", run)[0] == 0
    status, _, errors = sgr_train("extend", run, "--epochs", 2)
    assert status == 2 and "greedy trains in phases" in errors


def test_no_run(sgr_train, tmp_path):
    status, _, errors = sgr_train("extend", tmp_path, "--epochs", 2)
    assert status == 2 and "config.json is missing" in errors
