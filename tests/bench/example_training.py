"""Results of training, made up but plausible, in the form in which ``sgr_bench.training`` keeps them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from sgr_bench.training import runs, store, studies

SGR = {"layerwise": 2.2, "reforward": 2.1, "sgr": 0.9, "sgr-eq35": 1.0}  # SGR loss
ENVIRONMENT = {"python": "3.11.2", "torch": "2.14.1", "sgr_kernels": "0.1.0", "revision": "0123456789abcdef"}
ENVIRONMENT |= {"cuda": None, "device": "Example CPU, AVX2", "threads": 1}


def result(run: runs.Run, accuracy: float, epochs: int = 8) -> dict[str, Any]:
    """Of a run that comes to this test accuracy, with curves of some noise."""
    draw = random.Random(run.name)
    neighbours = run.row.changes.get("method") != "bp"
    level = SGR.get(run.row.name, 1.5)

    def curve(start: float, end: float, noise: float) -> list[float]:
        return [end + (start - end) * math.exp(-epoch / 3) + draw.gauss(0, noise) for epoch in range(epochs)]

    history = {
        "sgr": curve(2.3, level, 0.03) if neighbours else [None] * epochs,
        "loss": curve(2.3, 1.0, 0.02),
        "train_accuracy": curve(0.1, accuracy + 0.1, 0.01),
        "val_accuracy": curve(0.1, accuracy, 0.01),
        "input_change": [[draw.gauss(0.001 * k * level - 0.002, 0.002) for k in (1, 2, 3)] for _ in range(epochs)],
    }
    return {
        **store.identity(run),
        "method": run.row.changes.get("method", run.row.name.partition("-")[0]),
        "modules": 4,
        "parameters": 12345,
        "epochs": epochs,
        "images": {"train": 10000, "val": 5000, "test": 10000},
        "val_accuracy": history["val_accuracy"][-1],
        "train_accuracy": history["train_accuracy"][-1],
        "sgr": history["sgr"][-1],
        "test_accuracy": accuracy,
        "seconds": 1234.5,
        "date": "2026-01-02",
        "data_sha256": "0" * 64,
        "environments": [ENVIRONMENT],
        "history": history,
    }


def runs_of(name: str, work: Path = Path("work")) -> list[runs.Run]:
    study = studies.find(name)
    return runs.runs_of(name, study, [], study.seeds, runs.Surroundings(work=work))


def write(folder: Path, *names: str) -> Path:
    """Results of all runs of some studies."""
    for name in names:
        for number, run in enumerate(runs_of(name)):
            store.put(folder, name, result(run, 0.5 + 0.0123 * (number % 7) - 0.002 * run.seed))
    return folder
