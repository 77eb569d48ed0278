"""Real CIFAR-10: ResNet-32 in 16 modules learns; the closed form follows Algorithm 1.

Needs data/cifar10.npz in the root of the repository: CIFAR-10 in the MedMNIST layout (train_images, train_labels,
test_images, test_labels; uint8).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from sgr_train.config import RunConfig
from sgr_train.settings import make
from sgr_train.train import setup

import sgr_kernels as sk

DATA = Path(__file__).parents[2] / "data" / "cifar10.npz"


needs_data = pytest.mark.skipif(
    not DATA.exists(), reason="no data/cifar10.npz in the repository root (MedMNIST layout)"
)


@needs_data
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


def losses(engine: str, steps: int) -> torch.Tensor:
    """Loss of every module of a BP-free PlainNet at every step, (steps, K)."""
    options = {"depth": 4, "width": 16, "lr": 0.02, "weight": 0.3, "batch_size": 128}
    config = make(RunConfig, data=f"npz:{DATA}", bp_free=True, train_subset=128 * steps, **options)
    run, data = setup(config)
    rows = []
    for x, labels in data.shuffled(config.batch_size, run.generator):
        delta, row = None, []
        for module, optimizer in zip(run.network, run.optimizers, strict=True):
            optimizer.zero_grad()
            settings = {"weight": 0.3, "reduction": "batchmean", "engine": engine}
            step = sk.local_step(module.body, module.head, x, labels, delta, **settings)
            optimizer.step()
            x, delta = step.output, step.delta_out
            row.append(step.loss)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@needs_data
def test_closed_form_follows_algorithm_1_for_200_steps():
    """Same seed, same order of images; float32 rounding is all that may set the two curves apart, and it grows."""
    published, closed_form = losses("autograd", 200), losses("fused", 200)
    deviation = ((closed_form - published).abs() / published).max(1).values
    print("largest relative deviation of a loss by 50 steps:", [f"{d.max():.1e}" for d in deviation.split(50)])
    assert published[-20:].mean(0)[-1] < published[:20].mean(0)[-1]  # it learns
    assert deviation[:50].max() < 1e-4
    assert deviation.max() < 1e-2
