"""Numbers that are no longer finite end a run in one line, and leave the last good epoch."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from sgr_train import checkpoint, compare, divergence, methods, train
from sgr_train.errors import Diverged
from sgr_train.files import write_json
from sgr_train.hooks import Hooks
from sgr_train.measure import accuracy
from sgr_train.methods.sgr import RHO
from train_helpers import TINY_FLAGS

import sgr_kernels as sk


def finite(folder) -> bool:
    """Every JSON file below a folder is JSON, which has no NaN."""

    def refuse(word):
        raise AssertionError(word)

    for path in (*folder.rglob("*.json"), *folder.rglob("*.jsonl")):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)
    return True


@pytest.mark.parametrize("method", ["bp", "layerwise", "sgr"])
@pytest.mark.parametrize(
    "settings", [{"lr": 1e30}, {"lr": 1e38, "batch_size": 2000}, {"lr": 1e30, "clip_grad_norm": 1.0}]
)
def test_divergence_is_an_error_and_keeps_the_last_good_epoch(sgr_train, tmp_path, method, settings):
    """A batch of 2000 is the only one of an epoch: its loss is finite, and what it leaves is not."""
    out = tmp_path / "run"
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--method", method, *flags, "--epochs", 1, "--out", out)
    assert status == 2 and errors.startswith("sgr-train: training diverged in epoch 1: ") and errors.count("\n") == 1
    assert f"lower --lr (now {settings['lr']:g})" in errors
    assert (f"lower --rho (now {RHO:g})" in errors) == (method == "sgr")
    assert ("set --clip-grad-norm" in errors) == ("clip_grad_norm" not in settings)
    assert finite(out) and checkpoint.load_state(out / "checkpoint.pt")["history"] == []
    assert ("lower --clip-grad-norm (now 1)" in errors) == ("clip_grad_norm" in settings)
    again, _, repeated = sgr_train("run", "--resume", out)
    assert again == 2 and repeated == errors


def test_the_loss_is_that_of_the_module_that_trained(tiny):
    config = tiny(method="greedy")
    run, data = train.setup(config)
    run.history = [{}] * config.epochs  # the second module's turn
    torch.nn.init.constant_(run.network[1].body[0][0].weight, math.inf)
    with pytest.raises(Diverged, match="the loss of module 2 is nan in step 1 of the epoch"):
        train.train_epoch(run, config, data, Hooks())


def test_the_first_step_and_module_whose_loss_is_not_finite_are_named():
    watch = divergence.Watch({0, 1, 2})
    for step, losses in enumerate([[1.0, 2.0, 3.0], [1.0, 2.0, math.inf], [1.0, math.nan, math.nan]], 1):
        watch.see(torch.tensor(losses), step)
        if step == 1:
            watch.check()
    with pytest.raises(Diverged, match="the loss of module 3 is inf in step 2 of the epoch"):
        watch.check()


@pytest.mark.parametrize("flag", ["--momentum", "--weight-decay", "--weight", "--rho"])
def test_what_made_a_run_diverge_is_among_the_advice(sgr_train, tmp_path, flag):
    status, _, errors = sgr_train("run", *TINY_FLAGS, flag, 1e38, "--out", tmp_path / "run")
    assert status == 2 and f"lower {flag} (now 1e+38)" in errors and errors.count("\n") == 1


def test_a_loss_is_looked_at_within_the_epoch(tiny, monkeypatch):
    monkeypatch.setattr(train, "CHECK_EVERY", 2)
    batches = []
    monkeypatch.setattr(Hooks, "batch", lambda self, images, loss: batches.append(loss))
    with pytest.raises(Diverged, match="in epoch 1: the loss of module"):
        train.train(tiny(lr=1e38, method="bp", train_subset=320))
    assert len(batches) < 10


@pytest.mark.parametrize("what", ["weight", "running_mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_or_statistic_that_is_not_finite_is_named(tiny, what, value):
    run, _ = train.setup(tiny())
    divergence.check_weights(run.network)
    name = next(name for name in run.network[1].state_dict() if name.endswith(what))
    run.network[1].state_dict()[name].view(-1)[0] = value
    with pytest.raises(Diverged, match=f"{name} of module 2 is not finite"):
        divergence.check_weights(run.network)


def test_logits_that_are_not_finite_classify_nothing(tiny):
    run, data = train.setup(tiny(head="conv"))
    with torch.no_grad():
        run.network[2].head.classifier.bias[0] = math.inf
    with pytest.raises(Diverged, match="the logits of module 3 are not finite"):
        accuracy(run.network, data.ordered(data.val, 64))


def test_the_sgr_loss_is_looked_at(tiny, monkeypatch):
    monkeypatch.setattr(sk, "sgr_loss", lambda *_, **__: torch.tensor(math.nan))
    with pytest.raises(Diverged, match="in epoch 1: the SGR loss of module 2 is nan"):
        train.train(tiny())


def test_what_is_no_json_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", {"loss": math.nan}, "")
    assert list(tmp_path.iterdir()) == []


def diverge(monkeypatch, lost):
    """Runs for which ``lost(config)`` holds diverge."""
    original = train.train_epoch

    def train_epoch(run, config, data, progress):
        if lost(config):
            raise Diverged("the loss of module 2 is nan")
        return original(run, config, data, progress)

    monkeypatch.setattr(train, "train_epoch", train_epoch)


def test_a_comparison_goes_on_without_the_runs_that_diverge(sgr_train, tmp_path, monkeypatch):
    diverge(monkeypatch, lambda config: config.method == "bp" or (config.method, config.seed) == ("sgr", 0))
    out = tmp_path / "comparison"
    status, text, errors = sgr_train("compare", *TINY_FLAGS, "--seeds", 0, 1, "--out", out)
    assert status == 2 and errors.count("\n") == 1
    assert "3 of 6 runs failed and are left out: bp seed 0, sgr seed 0, bp seed 1" in errors and "lower --lr" in errors
    assert "[1/6] bp seed 0: training diverged in epoch 1: the loss of module 2 is nan" in text
    assert "without bp seed 0, sgr seed 0, bp seed 1, which failed" in text
    assert re.search(r"^sgr was .* layerwise on one seed", text, re.MULTILINE)
    assert re.search("on [01] of 1 seeds", text)  # seed 1 alone
    summary = json.loads((out / "summary.json").read_text())
    assert {method: [run["seed"] for run in runs] for method, runs in summary["runs"].items()} == {
        "layerwise": [0, 1], "sgr": [1]}  # fmt: skip
    assert summary["failed"] == ["bp seed 0", "sgr seed 0", "bp seed 1"] and finite(out)
    monkeypatch.undo()
    status, _, errors = sgr_train("compare", "--resume", out)
    assert (status, errors) == (0, "")


def test_a_comparison_goes_on_without_a_run_that_raises(sgr_train, tmp_path, monkeypatch):
    """As a method of the user's own may."""
    step = methods.sgr.step

    def broken(self, network, x, y, update):
        raise RuntimeError("shapes\ndiffer")

    monkeypatch.setattr(methods.sgr, "step", broken)
    out = tmp_path / "comparison"
    flags = (*TINY_FLAGS, "--methods", "sgr", "layerwise", "--seeds", 0, "--epochs", 1)
    status, text, errors = sgr_train("compare", *flags, "--out", out)
    assert status == 2 and "[1/2] sgr seed 0: RuntimeError: shapes differ" in text
    assert "without sgr seed 0, which failed" in text and "[2/2] layerwise seed 0: test accuracy" in text
    assert "in broken" in errors and errors.endswith("left out: sgr seed 0 (sgr seed 0: RuntimeError: shapes differ)\n")
    monkeypatch.setattr(methods.sgr, "step", step)
    assert sgr_train("compare", "--resume", out)[0] == 0


def test_a_comparison_of_which_nothing_is_left(sgr_train, tmp_path, monkeypatch):
    diverge(monkeypatch, lambda config: True)
    status, _, errors = sgr_train("compare", *TINY_FLAGS, "--seeds", 0, "--methods", "sgr", "--out", tmp_path / "x")
    assert status == 2 and "1 of 1 runs failed" in errors and errors.count("\n") == 1


def test_a_weight_of_which_a_run_diverges_is_not_chosen(sgr_train, tmp_path, monkeypatch):
    diverge(monkeypatch, lambda config: (compare.candidate_of(config).value, config.seed) == (0.1, 1))
    flags = (*TINY_FLAGS, "--epochs", 1, "--weights", 0.1, 0.2, "--seeds", 0, 1)
    status, text, errors = sgr_train("choose", *flags, "--out", tmp_path / "choice")
    assert status == 2 and "1 of 6 runs failed and are left out: lambda 0.1 seed 1" in errors
    assert "--weight 0.2 --reduction batchmean" in text
    summary = json.loads((tmp_path / "choice" / "summary.json").read_text())
    assert [row["weight"] for row in summary["candidates"]] == [0.0, 0.2]
