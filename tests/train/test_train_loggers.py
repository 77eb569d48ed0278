"""Loggers: what they are told, in which order, and that none of them can lose a run."""

from __future__ import annotations

import json
import sys
import types

import pytest
from sgr_train import checkpoint, train
from sgr_train.config import NOT_SETTINGS
from sgr_train.loggers import REGISTRY, scalars
from train_helpers import TINY_FLAGS

ROW = {"epoch": 3, "lr": 0.1, "loss": [2.0, 1.0], "sgr": [0.5], "val_accuracy": None, "peak_memory_kind": "resident"}


@pytest.fixture
def spy(monkeypatch):
    """--log spy; what it was told, in order."""
    calls = []

    class Spy:
        """A logger."""

        def begin(self, run, config, data):
            calls.append(("begin", [row["epoch"] for row in run.history], config.out.name, len(data.train)))

        def batch(self, images, loss):
            calls.append(("batch", images, loss.ndim))

        def epoch(self, row):
            assert checkpoint.load_state(self.path)["history"][-1] == row  # it is kept
            calls.append(("epoch", row["epoch"]))

        def end(self, summary):
            calls.append(("end", summary and summary["test_accuracy"]))

    monkeypatch.setitem(REGISTRY._entries, "spy", Spy)
    return calls, Spy


def test_a_logger_is_told_of_everything_in_order(sgr_train, tmp_path, spy):
    calls, Spy = spy
    out = tmp_path / "run"
    Spy.path = out / "checkpoint.pt"
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--epochs", 2, "--log", "spy", "--out", out)
    assert (status, errors) == (0, "")
    accuracy = json.loads((out / "summary.json").read_text())["test_accuracy"]
    steps = [("batch", 32, 0)] * 4
    assert calls == [("begin", [], "run", 128), *steps, ("epoch", 1), *steps, ("epoch", 2), ("end", accuracy)]
    calls.clear()
    assert sgr_train("extend", out, "--epochs", 3)[0] == 0
    assert calls[0] == ("begin", [1, 2], "run", 128) and calls[-2] == ("epoch", 3)
    calls.clear()
    assert sgr_train("run", "--resume", out)[0] == 0 and calls == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("of a method")])
def test_a_logger_hears_of_an_end_that_is_none(tiny, monkeypatch, spy, error):
    calls, Spy = spy
    config = tiny(log=("spy",))
    Spy.path = config.out / "checkpoint.pt"

    def train_epoch(*_):
        raise error

    monkeypatch.setattr(train, "train_epoch", train_epoch)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else RuntimeError):
        train.train_and_test(config)
    assert calls == [("begin", [], "run", 128), ("end", None)]


def test_a_run_that_nobody_tests_has_an_empty_summary(tiny, monkeypatch, spy):
    calls, Spy = spy
    config = tiny(log=("spy",), epochs=1)
    Spy.path = config.out / "checkpoint.pt"
    monkeypatch.setattr(Spy, "end", lambda self, summary: calls.append(summary))
    train.train(config)
    assert calls[-1] == {}


@pytest.mark.parametrize("what", ["begin", "batch", "epoch", "end"])
def test_a_logger_that_fails_is_told_of_once_and_loses_nothing(sgr_train, tmp_path, monkeypatch, spy, what):
    calls, Spy = spy
    out = tmp_path / "run"
    Spy.path = out / "checkpoint.pt"

    def fail(*_):
        raise ValueError("no\nnetwork")

    monkeypatch.setattr(Spy, what, fail)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--log", "spy", "--out", out)
    assert status == 0
    assert errors == f"sgr-train: --log spy failed ({what}: ValueError: no network); the run goes on without it\n"
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3 and (out / "summary.json").exists()
    assert (what == "end") == (("epoch", 3) in calls)  # after it nothing


@pytest.mark.parametrize(("command", "more"), [("run", ()), ("compare", ("--seeds", 0)), ("choose", ("--seeds", 0))])
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named_before_anything_is_written(
    sgr_train, tmp_path, monkeypatch, name, command, more
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, text, errors = sgr_train(command, *TINY_FLAGS, *more, "--log", name, "--out", tmp_path / "run")
    assert (status, text) == (2, "") and errors.count("\n") == 1
    assert errors.startswith(f"sgr-train: --log {name} needs the package {name}: ")
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_row():
    assert scalars(ROW) == {"epoch": 3, "lr": 0.1, "loss/1": 2.0, "loss/2": 1.0, "sgr/2": 0.5}
    assert scalars({"images": {"train": 3}, "cuts": [], "test_accuracy_per_class": [None, 0.5]}) == {
        "test_accuracy_per_class/1": 0.5}  # fmt: skip


def test_a_package_that_is_broken_is_named(sgr_train, tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("raise TypeError('Descriptors cannot be created\\ndirectly')\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, _, errors = sgr_train("run", *TINY_FLAGS, "--log", "wandb", "--out", tmp_path / "run")
    message = "Descriptors cannot be created directly"
    assert (status, errors) == (2, f"sgr-train: --log wandb needs the package wandb: {message}\n")


# --- packages, by stand-ins with the signatures of theirs -------------------------------------------------------------


@pytest.fixture
def writers(monkeypatch):
    """torch.utils.tensorboard as its documentation has it; the writers that were made."""
    made = []

    class SummaryWriter:
        def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120, filename_suffix=""):
            self.log_dir, self.purge_step, self.scalars, self.closed = log_dir, purge_step, {}, False
            made.append(self)

        def add_scalar(
            self, tag, scalar_value, global_step=None, walltime=None, new_style=False, double_precision=False
        ):
            self.scalars[tag, global_step] = scalar_value

        def flush(self):
            pass

        def close(self):
            self.closed = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return made


def interrupt_after(monkeypatch, epochs):
    """Raise KeyboardInterrupt in the epoch after."""
    original = train.train_epoch

    def train_epoch(run, *args):
        if len(run.history) == epochs:
            raise KeyboardInterrupt
        return original(run, *args)

    monkeypatch.setattr(train, "train_epoch", train_epoch)


def test_tensorboard_goes_on_where_the_checkpoint_does(sgr_train, tmp_path, monkeypatch, writers):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert sgr_train("run", *TINY_FLAGS, "--log", "tensorboard", "--out", out)[0] == 130
    assert sgr_train("run", "--resume", out)[0] == 0
    first, second = writers
    assert (first.log_dir, first.purge_step, first.closed) == (str(out / "tensorboard"), 1, True)
    assert (second.log_dir, second.purge_step, second.closed) == (str(out / "tensorboard"), 2, True)
    assert {step for _, step in first.scalars} == {1, 2} and {step for _, step in second.scalars} == {2, 3}
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert second.scalars["loss/3", 3] == rows[2]["loss"][2] and second.scalars["sgr/2", 2] == rows[1]["sgr"][0]
    summary = json.loads((out / "summary.json").read_text())
    assert second.scalars["test_accuracy", 3] == summary["test_accuracy"]


@pytest.fixture
def wandb(monkeypatch):
    """The calls of wandb; init has no more keywords than are used here."""
    calls = []

    class Run:
        def __init__(self):
            self.summary = {}

        def log(self, data, step=None):
            calls.append(("log", step, data))

        def finish(self, exit_code=None):
            calls.append(("finish", exit_code, self.summary))

    def init(project=None, dir=None, id=None, name=None, config=None, resume=None):
        calls.append(("init", project, dir, id, name, config, resume))
        return Run()

    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_goes_on_with_the_run_of_the_same_id(sgr_train, tmp_path, monkeypatch, wandb):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        assert sgr_train("run", *TINY_FLAGS, "--log", "wandb", "--project", "mine", "--out", out)[0] == 130
    assert sgr_train("run", "--resume", out)[0] == 0
    stored = json.loads((out / "config.json").read_text())
    inits = [call for call in wandb if call[0] == "init"]
    settings = {name: value for name, value in stored.items() if name not in NOT_SETTINGS}
    assert inits == [("init", "mine", str(out), stored["run"], "run", settings, "allow")] * 2
    assert [call[1] for call in wandb if call[0] == "log"] == [1, 1, 2, 3]
    (_, first, _), (_, second, summary) = (call for call in wandb if call[0] == "finish")
    assert (first, second) == (1, 0)
    assert summary["test_accuracy"] == json.loads((out / "summary.json").read_text())["test_accuracy"]
    assert wandb[-2][1:] == (3, scalars(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])))


MINE = """
from sgr_train.errors import UsageError
from sgr_train.loggers import register


@register("refuses")
class Refuses:
    '''A logger.'''

    def __init__(self):
        raise UsageError("--log refuses: not today")
"""


def test_a_logger_of_ones_own_may_refuse_the_run(sgr_train, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    flags = ("--plugin", tmp_path / "mine.py", "--log", "refuses")
    status, text, errors = sgr_train("run", *TINY_FLAGS, *flags, "--out", tmp_path / "run")
    assert (status, text, errors) == (2, "", "sgr-train: --log refuses: not today\n")
    assert not (tmp_path / "run").exists()
