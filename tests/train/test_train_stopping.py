"""Validation now and then, and runs that end before their epochs are over."""

from __future__ import annotations

import json

import pytest
import torch
from sgr_train import train
from sgr_train.config import RunConfig
from sgr_train.loader import load_data
from sgr_train.settings import make
from sgr_train.stopping import has_stopped, is_over
from train_helpers import TINY_FLAGS, files


def rows(*accuracies):
    """Of the last head, None where an epoch was not validated."""
    return [{"epoch": epoch, "val_accuracy": None if a is None else [0.9, a]} for epoch, a in enumerate(accuracies, 1)]


@pytest.mark.parametrize(
    ("patience", "accuracies", "stops"),
    [
        (None, (0.5, 0.4, 0.3, 0.2), False),
        (2, (), False),
        (2, (0.5, 0.4), False),
        (2, (0.5, 0.4, 0.4), True),
        (2, (0.5, 0.5, 0.5), True),  # no better
        (2, (0.5, 0.4, 0.6), False),
        (2, (0.5, 0.4, 0.6, 0.5, 0.59), True),
        (3, (None, 0.5, None, 0.4, None), False),  # two epochs ago when it was seen last
        (3, (None, 0.5, None, 0.4, None, 0.4), True),
        (1, (None, None), False),
    ],
)
def test_patience_is_at_an_end(patience, accuracies, stops):
    config, history = make(RunConfig, patience=patience), rows(*accuracies)
    assert has_stopped(history, config) == stops
    assert is_over(history, 10, config) == stops and is_over(history, len(history), config)


@pytest.fixture
def validate(monkeypatch):
    """``validate(0.5, 0.6)``: the validation accuracies of the next epochs, and of the same ones when trained again."""
    original = train.measure

    def preset(*accuracies):
        left = iter(accuracies)

        def measure(*args):
            measured = original(*args)
            if measured["val_accuracy"] is not None:
                measured["val_accuracy"][-1] = next(left)
            return measured

        monkeypatch.setattr(train, "measure", measure)

    return preset


def test_validation_after_some_epochs_and_the_last(sgr_train, tmp_path, monkeypatch):
    out = tmp_path / "run"
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--epochs", 5, "--val-every", 2, "--out", out)
    assert (status, errors) == (0, "")
    history = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_accuracy"] is None for row in history] == [True, False, True, False, False]
    assert all(row["train_accuracy"] and row["sgr"] for row in history)
    assert [line.split("val ")[1].split()[0] == "-" for line in text.splitlines() if line.startswith("epoch")] == [
        True, False, True, False, False]  # fmt: skip
    assert json.loads((out / "summary.json").read_text())["val_accuracy"] == history[-1]["val_accuracy"][-1]


def test_a_run_without_better_validation_ends_finished(sgr_train, tmp_path, validate, monkeypatch):
    out = tmp_path / "run"
    validate(0.5, 0.6, 0.6, 0.55)
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--epochs", 9, "--patience", 2, "--out", out)
    assert (status, errors) == (0, "")
    assert "stopped after epoch 4: no better validation accuracy in 2 epochs" in text
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["epochs"], summary["stopped_early"], summary["val_accuracy"]) == (4, True, 0.55)
    before = files(out)
    monkeypatch.setattr(train, "train_epoch", None)
    assert sgr_train("run", "--resume", out)[0] == 0 and files(out) == before
    (out / "summary.json").unlink()  # as if it had been killed after its last epoch
    assert sgr_train("run", "--resume", out)[0] == 0
    again = json.loads((out / "summary.json").read_text())
    assert again == summary


def test_it_is_extended_and_counts_anew(sgr_train, tmp_path, validate):
    out = tmp_path / "run"
    validate(0.9, 0.6, 0.6)
    assert sgr_train("run", *TINY_FLAGS, "--epochs", 9, "--patience", 2, "--out", out)[0] == 0
    status, _, errors = sgr_train("extend", out, "--epochs", 3)
    assert status == 2 and "--epochs must be more than the 3 of the run" in errors
    validate(0.1, 0.2, 0.2, 0.1)
    status, text, errors = sgr_train("extend", out, "--epochs", 8)
    assert (status, errors) == (0, "") and "stopped after epoch 7" in text
    assert json.loads((out / "summary.json").read_text())["epochs"] == 7


def test_a_run_that_was_not_stopped_says_so(finished):
    assert json.loads((finished / "summary.json").read_text())["stopped_early"] is False


def test_a_run_without_checkpoints_is_not_extended_and_keeps_its_summary(sgr_train, finished):
    for path in finished.glob("checkpoint*.pt"):
        path.unlink()
    before = files(finished)
    status, _, errors = sgr_train("extend", finished, "--epochs", 5)
    assert status == 2 and "checkpoint.pt is missing" in errors and files(finished) == before


@pytest.mark.parametrize("command", [("run", "--method"), ("compare", "--methods", "bp")])
def test_methods_that_train_in_phases_know_no_patience(sgr_train, tmp_path, command):
    status, _, errors = sgr_train(*command, "greedy", "--patience", 3, "--out", tmp_path / "run")
    assert status == 2 and "--patience must be left out with --method greedy, which trains in phases, got 3" in errors


def test_runs_of_different_lengths_are_compared(sgr_train, tmp_path, validate):
    """Three epochs with the first seed, four with the second; validated after every second one."""
    validate(0.6, 0.5, 0.4, 0.5)
    flags = (*TINY_FLAGS, "--epochs", 4, "--patience", 2, "--methods", "layerwise", "--seeds", 0, 1)
    status, _, errors = sgr_train("compare", *flags, "--val-every", 2, "--out", tmp_path / "run")
    assert (status, errors) == (0, "") and (tmp_path / "run" / "comparison.png").exists()


def test_accuracy_by_class_is_in_the_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    from sgr_train.finished import load

    trained = load(finished)
    data = load_data(trained.config, torch.device("cpu"))
    with torch.no_grad():
        found = trained.network(data.normalise(data.test.pixels)).argmax(1)
    expected = [(found == label)[data.test.labels == label].double().mean().item() for label in range(10)]
    assert summary["test_accuracy_per_class"] == pytest.approx(expected)
    assert summary["classes"] == [str(label) for label in range(10)]
