"""The part "gradients": rows say what was compared with what."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sgr_bench import cli
from sgr_bench.precisions import in_precision, products_in

import sgr_kernels.engines.directional
from sgr_kernels.products import KINDS, rounding_of_products


@pytest.fixture
def images(tmp_path):
    numbers = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    pixels = numbers.integers(256, size=(80, 32, 32, 3), dtype=np.uint8)
    np.savez(path, train_images=pixels, train_labels=numbers.integers(10, size=(80, 1)))
    return path


def measured(images, tmp_path, *precisions: str) -> dict:
    options = ["--quick", "--networks", "vgg7", "--precisions", *precisions, "--out", str(tmp_path)]
    assert cli.main(["gradients", "--data", str(images), *options]) == 0
    rows = json.loads((tmp_path / "gradients-cpu.json").read_text())["rows"]
    assert {(row["module"], row["against"]) for row in rows} == {(2, "float64")}
    return {tuple(row.get(key) for key in ("when", "precision", "engine", "order")): row for row in rows}


def test_every_precision_is_compared_with_float64(images, tmp_path):
    rows = measured(images, tmp_path, "float32", "TF32", "bfloat16")
    errors = {key: row["relative_error"] for key, row in rows.items()}
    assert len(errors) == 2 * 3 * 3 and all(row["spread"] >= 1 for row in rows.values())
    for engine, order in (("autograd", None), ("directional", 1), ("directional", 2)):
        exact, tf32, half = (errors["at init", name, engine, order] for name in ("float32", "TF32", "bfloat16"))
        assert exact < tf32 < half
    assert errors["at init", "float32", "directional", 1] < 0.05
    assert rows["at init", "float32", "directional", 2]["cosine"] > 0.999


def test_precisions_end_with_their_context():
    a, b = torch.randn(2, 8, 8).unbind(0)
    exact, before = a @ b, torch.backends.mkldnn.matmul.fp32_precision
    with in_precision("TF32", "cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "tf32"
        assert 1e-5 < float((a @ b - exact).norm() / exact.norm()) < 1e-3
    with in_precision("float16", "cpu"):
        assert (a @ b).dtype == torch.float16
    assert torch.equal(a @ b, exact) and torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("rounding", ["ieee", "tf32"])
def test_code_can_be_compiled_whatever_products_round_to_on_a_gpu(rounding):
    """torch.compile asks for settings of the older style, which raise where they contradict those of the newer."""
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    with products_in(rounding, "cuda"):
        assert {rounding_of_products("cuda", kind) for kind in KINDS} == {rounding}
        assert {setting.allow_tf32 for setting in settings} == {rounding == "tf32"}
    assert [setting.allow_tf32 for setting in settings] == before


def test_a_wrong_engine_shows(images, tmp_path, monkeypatch):
    right = sgr_kernels.engines.directional.reconciled

    def wrong(passes, first, points, weight, inverse):
        return right(passes, first, points, -weight, inverse)

    monkeypatch.setattr(sgr_kernels.engines.directional, "reconciled", wrong)
    assert measured(images, tmp_path, "float32")["at init", "float32", "directional", 1]["cosine"] < -0.99
