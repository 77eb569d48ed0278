"""Runs that are killed, at any moment and in the middle of a write, go on and end as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path

import killed
import pytest
import torch
from sgr_train import checkpoint
from sgr_train.files import read_json

KILLS = 20
FLAGS = ["--train-subset", "640", "--depth", "3", "--width", "12", "--epochs", "3", "--batch-size", "32"]  # 60 steps
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
    return [*FLAGS, "--save-every", "7", "--method", "sgr", "--every", "3", "--out", str(out)]


def result(out: Path) -> tuple[list[torch.Tensor], list[dict]]:
    """Weights, and all that was measured but times."""
    state = checkpoint.load_state(out / checkpoint.CHECKPOINT)
    rows = [*map(json.loads, (out / checkpoint.METRICS).read_text().splitlines()), read_json(out / checkpoint.SUMMARY)]
    return (
        [tensor for tensor in state["network"].values() if isinstance(tensor, torch.Tensor)],
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
    weights, rows = result(whole)
    for run in runs:
        found, found_rows = result(run)
        assert all(a.equal(b) for a, b in zip(found, weights, strict=True)) and found_rows == rows
        assert not list(run.glob("*.part"))
