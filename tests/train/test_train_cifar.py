"""ResNet-32 in 16 modules on real CIFAR-10.

Needs data/cifar10.npz in the root of the repository: CIFAR-10 in the MedMNIST layout (train_images, train_labels,
test_images, test_labels; uint8).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data" / "cifar10.npz"


@pytest.mark.skipif(not DATA.exists(), reason="no data/cifar10.npz in the repository root (MedMNIST layout)")
def test_an_epoch_of_resnet32_in_16_modules_learns(sgr_train, tmp_path):
    flags = "--model resnet32 --modules 16 --head conv --method sgr --batch-size 128 --epochs 1 --train-subset 5000"
    status, text, _ = sgr_train("run", "--data", f"npz:{DATA}", *flags.split(), "--out", tmp_path / "run")
    assert status == 0 and "test accuracy" in text and "SGR loss" in text
    [row] = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert len(row["loss"]) == 16 and len(row["sgr"]) == 15
    assert all(loss < math.log(10) for loss in row["loss"])  # mean over the epoch, below that of a guess
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images"] == {"train": 5000, "val": 5000, "test": 10000}
    assert summary["test_accuracy"] > 0.1 + 5 * math.sqrt(0.1 * 0.9 / 10000)  # five standard errors above chance
    assert 0 < summary["sgr"] < 4
