"""The part "loader": both loaders give the same batches, and each has its rows."""

from __future__ import annotations

import json

import pytest
import torch
from sgr_bench import cli, loader
from sgr_bench.checks import WrongResult


def test_rows_of_both_loaders(tmp_path):
    flags = ["--images", "150", "--batch", "64", "--size", "16", "--repeats", "1", "--workers", "0", "2"]
    assert cli.main(["loader", *flags, "--threads", "1", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "loader-cpu.json").read_text())["rows"]
    assert [(row["loader"], row["workers"]) for row in rows] == [
        (name, workers) for workers in (0, 2) for name in ("sgr_train", "DataLoader")
    ]
    assert all(row["images_per_second"] == pytest.approx(150 / row["seconds"]) for row in rows)
    assert rows[0]["command"].endswith("--images 150 --workers 0 --batch 64 --size 16 --repeats 1")


@pytest.mark.parametrize("what", ["pixels", "labels"])
def test_other_batches_are_no_result(what):
    def batches(number):
        pixels, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2)
        (pixels if what == "pixels" else labels).view(-1)[number] = 1
        return [(pixels, labels)]

    loader.require_the_same({"one": batches(0), "other": batches(0)})
    with pytest.raises(WrongResult, match="one and other give other batches"):
        loader.require_the_same({"one": batches(0), "other": batches(1)})
