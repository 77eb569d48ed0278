"""What is seen of a run: its first lines, lines within long epochs, and the picture at its end."""

from __future__ import annotations

import os
import re
import struct
import sys
import types

import pytest
import torch
from sgr_train import plots, progress, train
from sgr_train.config import RunConfig
from sgr_train.settings import make
from train_helpers import TINY_FLAGS

# --- the first lines --------------------------------------------------------------------------------------------------


def test_a_run_says_first_where_and_on_what_it_trains(sgr_train, tmp_path):
    out = tmp_path / "a run"
    first, second, *others = sgr_train("run", *TINY_FLAGS, "--method", "bp", "--out", out)[1].splitlines()
    images = "128 / 360 / 359 images to train / validate / test, 10 classes, 1 module"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} thread"
    assert first.startswith(f"{out} on {device}") and f": {images}, " in first
    assert re.search(r", [\d,]+ parameters$", first)
    assert second == "settings: --method bp --train-subset 128 --epochs 3 --batch-size 32 --depth 3 --width 12"
    assert not any(line.startswith("settings") for line in others)
    assert "are done" not in first
    text = sgr_train("extend", out, "--epochs", 4)[1]
    assert text.splitlines()[0].endswith(" parameters, 3 of 4 epochs are done") and "--epochs 4" in text


def test_a_comparison_says_it_once(sgr_train, tmp_path):
    flags = (*TINY_FLAGS, "--epochs", 1, "--methods", "bp", "--seeds", 0, 1)
    text = sgr_train("compare", *flags, "--out", tmp_path / "run")[1]
    assert text.count(" on ") == text.count("settings: --methods bp --seeds 0 1 --train-subset") == 1


# --- lines within an epoch --------------------------------------------------------------------------------------------


MEASURED = "loss 0.500  val 25.0%  SGR -  waited for data 4%"  # of the rows below


@pytest.fixture
def clock(monkeypatch):
    """``clock[0]`` are the seconds that have passed."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys, clock, seconds_a_step, verbose, steps=50, epochs=2):
    """Of a run of so many steps of 10 images an epoch; nothing to read a loss from unless it is shown."""
    read = []

    class Loss:
        def item(self):
            read.append(1)
            return 0.5

    shown = progress.Progress("[2/3] bp seed 1", verbose)
    run = types.SimpleNamespace(epochs=epochs, history=[], epoch=None)
    data = types.SimpleNamespace(images_per_epoch=lambda batch_size: 10 * steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "heading", lambda *_: "heading")
        shown.begin(run, make(RunConfig), data)
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            clock[0] += seconds_a_step
            shown.batch(10, Loss())
        row = {"epoch": epoch, "loss": [0.5], "val_accuracy": [0.25], "sgr": [], "images_per_second": 7.0}
        row["waited"] = 0.04
        shown.epoch(row)
    shown.end(None)
    lines = capsys.readouterr().out.splitlines()
    assert len(read) == sum("of epoch" in line for line in lines)
    return lines


def test_a_short_epoch_has_one_line(capsys, clock):
    assert lines_of(capsys, clock, 0.1, True) == [
        "heading", f"epoch 1/2  {MEASURED}  7 img/s",
        f"epoch 2/2  {MEASURED}  7 img/s"]  # fmt: skip


def test_an_epoch_of_minutes_has_a_line_every_half_minute(capsys, clock):
    """100 s an epoch: at 30, 60 and 90 s."""
    lines = lines_of(capsys, clock, 2.0, True)
    assert lines[1:5] == [
        "30% of epoch 1/2  loss 0.500  5 img/s", "60% of epoch 1/2  loss 0.500  5 img/s",
        "90% of epoch 1/2  loss 0.500  5 img/s", f"epoch 1/2  {MEASURED}  7 img/s"]  # fmt: skip
    assert lines[5] == f"30% of epoch 2/2  {MEASURED}  5 img/s" and len(lines) == 9


def test_an_epoch_of_hours_has_a_line_every_tenth(capsys, clock):
    lines = lines_of(capsys, clock, 600.0, True)
    assert [line.partition(" of")[0] for line in lines[1:10]] == [f"{tenth}0%" for tenth in range(1, 10)]
    assert len(lines) == 1 + 2 * 10


def test_runs_of_a_comparison_have_lines_where_they_take_long(capsys, clock):
    assert lines_of(capsys, clock, 0.1, False) == []
    lines = lines_of(capsys, clock, 2.0, False)
    assert lines[0] == "[2/3] bp seed 1: 30% of epoch 1/2  loss 0.500  5 img/s"
    assert not any(": epoch 1/2" in line for line in lines)  # 10 s after the last one


def test_the_loss_of_a_line_is_that_of_the_batch(tiny, monkeypatch, capsys):
    """Within a whole run, where every step is late."""
    monkeypatch.setattr(progress, "SECONDS", 0)
    train.train(tiny(epochs=2), verbose=True)
    text = capsys.readouterr().out
    found = re.findall(r"^(\d+)% of epoch (\d)/2  loss ([\d.]+)", text, re.MULTILINE)
    assert [(share, epoch) for share, epoch, _ in found] == [(s, e) for e in "12" for s in ("25", "50", "75")]
    assert all(0 < float(loss) < 10 for *_, loss in found)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [0, 80])
def test_a_terminal_has_a_bar_if_it_has_a_width_and_else_lines(tiny, monkeypatch, capsys, columns):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        train.train(tiny(epochs=1), "a run", verbose=True)
        terminal.write("end")
        terminal.flush()
        shown = ""
        while not shown.endswith("end"):  # it arrives in pieces
            shown += os.read(ours, 100_000).decode(errors="replace")
    os.close(ours)
    assert ("a run: 100%" in shown, "epoch 1/1" in capsys.readouterr().out) == (columns == 80, columns == 0)


# --- the picture ------------------------------------------------------------------------------------------------------


def history(epochs, modules, validated=lambda epoch: True):
    """Rows of a run, all values different."""
    return [
        {"epoch": epoch, "loss": [1 / (epoch + k) for k in range(modules)], "train_accuracy": [0.5] * modules,
         "sgr": [1.5 + k / 100 for k in range(modules - 1)],
         "val_accuracy": [epoch / 100] * modules if validated(epoch) else None}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn, png = [], plots._png
    monkeypatch.setattr(plots, "_png", lambda figure, title: drawn.append(figure) or png(figure, title))
    return drawn


COMPARED = {"bp": (0.1, 2**20), "sgr": (0.3, 2**19), "dni": (0.2, None)}  # seconds and bytes of a step


def compared(**histories) -> None:
    """A picture of runs with seeds 0, 1 ..., of which each is a hundredth more accurate than the one before."""
    summaries = {
        method: [
            {"seed": seed, "test_accuracy": 0.9 + seed / 100, "sgr": None if method == "bp" else 1.5,
             "seconds_per_step": COMPARED[method][0], "step_memory_bytes": COMPARED[method][1]}
            for seed in range(len(runs))
        ] for method, runs in histories.items()
    }  # fmt: skip
    plots.of_comparison(summaries, histories, "batchmean", "title")


def test_methods_stand_side_by_side(figures):
    compared(bp=[history(2, 1)] * 2, sgr=[history(2, 3)] * 2, dni=[history(2, 3)] * 2)
    accuracy, sgr, time, memory = figures[0].axes[:4]
    for axis, label, means, bars in (
        (accuracy, "test accuracy (%)", ["90.50"] * 3, []),
        (sgr, "SGR loss (batchmean)", ["-", "1.50", "1.50"], [1.5, 1.5]),
        (time, "time a step / bp", ["1.00", "3.00", "2.00"], [1.0, 3.0, 2.0]),
        (memory, "memory a step / bp", ["1.00", "0.50", "-"], [1.0, 0.5]),
    ):
        assert axis.get_ylabel() == label and [text.get_text() for text in axis.texts] == means
        assert [bar.get_height() for bar in axis.patches] == pytest.approx(bars)
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["bp", "sgr", "dni"]
        assert axis.get_ylim()[1] > max([*bars, *(line.get_ydata().max() for line in axis.lines)])
    compared(sgr=[history(2, 3)])  # without bp
    assert [axis.get_ylabel() for axis in figures[1].axes[2:4]] == ["time a step, ms", "memory a step, MiB"]
    assert [axis.patches[0].get_height() for axis in figures[1].axes[2:4]] == pytest.approx([300.0, 0.5])


def test_curves_of_one_epoch_are_seen(figures):
    plots.of_run(history(1, 3), make(RunConfig), "batchmean")
    for axis in figures[0].axes:
        assert axis.lines and all(line.get_marker() != "None" for line in axis.lines)
        assert [tick for tick in axis.get_xticks() if 0.5 < tick < 1.5] == [1]


def test_curves_of_many_epochs_are_lines(figures):
    plots.of_run(history(200, 3), make(RunConfig), "batchmean")
    assert all(line.get_marker() == "None" for axis in figures[0].axes for line in axis.lines)


@pytest.mark.parametrize(("modules", "named"), [(3, True), (6, True), (7, False), (16, False)])
def test_every_module_has_a_colour_and_a_name_beside_the_lines(figures, modules, named):
    plots.of_run(history(2, modules), make(RunConfig), "batchmean")
    losses, _, sgr, *scales = figures[0].axes
    assert len({tuple(line.get_color()) for line in losses.lines}) == modules
    assert (losses.get_legend() is not None) == named == (scales == [])
    if named:
        names = [text.get_text() for text in sgr.get_legend().get_texts()]
        assert names == [f"module {k}" for k in range(2, modules + 1)]
    for scale, beside, first in zip(scales, (losses, sgr), (1, 2), strict=False):
        assert not scale.get_position().overlaps(beside.get_position())
        assert scale.get_ylim() == (first - 0.5, modules + 0.5)


def test_what_was_not_validated_is_left_out(figures):
    plots.of_run(history(5, 2, lambda epoch: epoch in (2, 5)), make(RunConfig), "batchmean")
    train, val = figures[0].axes[1].lines
    assert list(train.get_xdata()) == [1, 2, 3, 4, 5]
    assert list(val.get_xdata()) == [2, 5] and list(val.get_ydata()) == pytest.approx([2.0, 5.0])


def test_values_from_zero_have_room_above_them(figures):
    compared(bp=[history(2, 1)])  # nothing to reconcile
    [_, sgr, *_, by_epoch] = figures[0].axes
    assert sgr.get_ylim() == by_epoch.get_ylim() == (0, 1) and not by_epoch.lines and not sgr.patches
    compared(sgr=[history(2, 3)])
    low, high = figures[1].axes[-1].get_ylim()
    assert low == 0 and high > 1.5 > 0.9 * high


def test_a_comparison_of_runs_of_different_lengths(figures):
    """In epoch 2 both runs are there, in epoch 3 the longer one."""
    runs = [history(2, 2), history(3, 2, lambda epoch: epoch > 1)]
    runs[1][1]["val_accuracy"] = [0.0, 0.04]
    compared(sgr=runs)
    [line] = figures[0].axes[-2].lines
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == pytest.approx([1.0, 3.0, 3.0])
