"""The part "gradients": rows say what was compared with what."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sgr_bench import cli, gradients

import sgr_kernels.engines.directional


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.delitem(gradients.DTYPES, "float16")  # convolutions in it take a CPU minutes
    numbers = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    pixels = numbers.integers(256, size=(80, 32, 32, 3), dtype=np.uint8)
    np.savez(path, train_images=pixels, train_labels=numbers.integers(10, size=(80, 1)))
    return path


def measured(images, tmp_path) -> dict:
    arguments = ["gradients", "--data", str(images), "--quick", "--kinds", "vgg", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    rows = json.loads((tmp_path / "gradients-cpu.json").read_text())["rows"]
    keys = ("when", "precision", "engine", "order", "against")
    return {tuple(row.get(key) for key in keys): row for row in rows}


def test_every_precision_is_compared_with_the_engine_and_with_float64(images, tmp_path):
    rows = measured(images, tmp_path)
    for when in ("at init", "trained"):
        for precision in gradients.DTYPES:
            assert (when, precision, "autograd", None, "float64") in rows
            for order in (1, 2):
                for against in ("autograd", "float64"):
                    assert rows[when, precision, "directional", order, against]["spread"] >= 1
    exact = rows["at init", "float32", "autograd", None, "float64"]
    first, second = (rows["at init", "float32", "directional", order, "autograd"] for order in (1, 2))
    assert exact["relative_error"] < 0.01 and second["relative_error"] < first["relative_error"] < 0.05
    assert second["cosine"] > first["cosine"] > 0.999
    coarse = rows["at init", "bfloat16", "directional", 1, "autograd"]
    assert coarse["relative_error"] > first["relative_error"]


def test_a_wrong_engine_shows(images, tmp_path, monkeypatch):
    right = sgr_kernels.engines.directional.reconciled

    def wrong(passes, first, points, factor):
        return right(passes, first, points, -factor)

    monkeypatch.setattr(sgr_kernels.engines.directional, "reconciled", wrong)
    assert measured(images, tmp_path)["at init", "float32", "directional", 1, "autograd"]["cosine"] < -0.99
