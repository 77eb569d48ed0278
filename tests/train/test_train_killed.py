"""Runs that are killed, at any moment and in the middle of a write, go on and end as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shlex
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

import killed
import pytest
import torch
from sgr_train import checkpoint
from sgr_train.files import read_json
from torch.utils._pytree import tree_leaves

KILLS, SIGNALS = 20, 8
FLAGS = ["--train-subset", "640", "--depth", "3", "--width", "12", "--epochs", "3", "--batch-size", "32"]  # 60 steps
SPECKLE = """
import torch
from sgr_train.augmentations import register


@register("speckle")
def speckle(x, labels, data, generator):
    \"\"\"Noise from the generator that all of torch shares, as dropout is.\"\"\"
    return x + 0.01 * torch.randn_like(x), labels
"""
CALLS = ("fsync", "replace", "link")  # of which every file of a run needs at least one
MEASURED = {"seconds", "waited", "images_per_second", "peak_memory_bytes", "seconds_per_epoch", "run", "sha256"}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # or it would not be found, without a word
        forkserver.ensure_running()
    return context


def start(processes, out: Path, *fate):
    words = ["run", "--resume", str(out)] if (out / checkpoint.CONFIG).exists() else ["run", *flags(out)]
    process = processes.Process(target=killed.train, args=(words, *(fate or (None, 0))))
    process.start()
    return process


def flags(out: Path) -> list[str]:
    """All that has a state: momentum, an average of the weights, steps that count, and both random generators."""
    (out.parent / "speckle.py").write_text(SPECKLE)
    moving = ["--save-every", "7", "--method", "sgr", "--every", "3", "--ema", "0.9", "--augment", "crop", "speckle"]
    return [*FLAGS, *moving, "--plugin", str(out.parent / "speckle.py"), "--out", str(out)]


def result(out: Path) -> tuple[list[torch.Tensor], list[dict]]:
    """All tensors of the last and the best checkpoint, and all that was measured but times."""
    states = [checkpoint.load_state(out / name) for name in (checkpoint.CHECKPOINT, checkpoint.BEST)]
    rows = [*map(json.loads, (out / checkpoint.METRICS).read_text().splitlines()), read_json(out / checkpoint.SUMMARY)]
    return (
        [leaf for leaf in tree_leaves(states) if isinstance(leaf, torch.Tensor)],
        [{name: value for name, value in row.items() if name not in MEASURED} for row in rows],
    )


def test_killed_often_a_run_ends_as_it_would_have(processes, tmp_path):
    """Half of the kills are at a moment, the others in a write; a run that ends all the same is followed by another."""
    chance, whole = random.Random(0), tmp_path / "whole"
    start(processes, whole).join()
    runs, steps, kills = [tmp_path / "run"], set(), 0
    while kills < KILLS:
        if kills % 2:
            process = start(processes, runs[-1])
            process.join(chance.uniform(0.0, 1.0))
            process.kill()
        else:
            process = start(processes, runs[-1], chance.choice(CALLS), chance.randrange(1, 4))
        process.join()
        if process.exitcode == 0:
            runs.append(tmp_path / f"run {len(runs)}")
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        if (runs[-1] / checkpoint.CHECKPOINT).exists():
            epoch = checkpoint.load_state(runs[-1] / checkpoint.CHECKPOINT)["epoch"]
            steps.add(epoch and epoch["steps"])
    start(processes, runs[-1]).join()
    assert steps & {7, 14}, "no run went on from the middle of an epoch"
    assert_all_as(whole, runs)


def assert_all_as(whole: Path, runs: list[Path]) -> None:
    weights, rows = result(whole)
    for run in runs:
        found, found_rows = result(run)
        assert all(a.equal(b) for a, b in zip(found, weights, strict=True)) and found_rows == rows
        assert not list(run.glob("*.part"))


def test_signals_at_any_moment_end_in_one_line_that_says_how_to_go_on(processes, tmp_path):
    chance, whole = random.Random(1), tmp_path / "whole"
    start(processes, whole).join()
    runs, sent = [tmp_path / "run"], 0
    while sent < SIGNALS:
        errors = tmp_path / f"errors {sent}"
        process = start(processes, runs[-1], None, 0, str(errors))
        process.join(chance.uniform(0.1, 1.0))
        number = (signal.SIGINT, signal.SIGTERM)[sent % 2]
        if process.exitcode is None:
            os.kill(process.pid, number)
        process.join()
        if process.exitcode == 0:
            runs.append(tmp_path / f"run {len(runs)}")
            continue
        sent += 1
        assert process.exitcode == 128 + number
        said = errors.read_text()
        assert said.splitlines()[-1].startswith("sgr-train: interrupted") and "Traceback" not in said
        if (runs[-1] / checkpoint.CONFIG).exists():
            assert f"continue with: sgr-train run --resume {shlex.quote(str(runs[-1]))}" in said
    start(processes, runs[-1]).join()
    assert_all_as(whole, runs)
