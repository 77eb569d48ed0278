"""The part "memory": whole steps and modules against BP and the paper; wrong engines give no numbers."""

from __future__ import annotations

import argparse
import itertools
import json

import pytest
from sgr_bench import cli, memory, ways, zoo
from sgr_train.errors import UsageError
from sgr_train.memory import best_cuts
from sgr_train.memory.best_cuts import Stretches
from sgr_train.memory.live import peak_live_bytes
from sgr_train.memory.step import Sizes

import sgr_kernels.engines.directional


def measured(network: str, batch: int, as_gpu: bool = False) -> memory.Measured:
    return memory.Measured(network, argparse.Namespace(batch=batch, device="cpu", as_gpu=as_gpu))


@pytest.mark.parametrize("method", [name for name in ways.WAYS if name != "fused"])
def test_fake_tensors_need_what_real_ones_do(method):
    network, (x, y) = zoo.create("resnet14", 3), zoo.inputs("resnet14", 4)
    step = ways.Step(ways.WAYS[method], network, x)
    step(x, y)  # the first step of a module is checked, with one more pass
    real = peak_live_bytes(lambda: step(x, y))
    fake = measured("resnet14", 4).step(ways.WAYS[method], () if method.startswith("BP") else network.cuts)
    assert real > 1e6
    assert abs(fake / real - 1) < 0.005


def test_as_on_a_gpu_a_step_needs_little_more_than_plain_local_learning():
    peaks = {}
    for as_gpu in (False, True):
        size = measured("resnet32", 16, as_gpu)
        peaks[as_gpu] = [size.stretches(ways.WAYS["directional"], plain).peak(6, 11) for plain in (False, True)]
    assert all(0.4 < mine / wide < 0.6 for mine, wide in zip(peaks[True], peaks[False], strict=True))
    ratios = {as_gpu: directional / plain for as_gpu, (directional, plain) in peaks.items()}
    assert ratios[True] < 0.95 * ratios[False]


@pytest.mark.parametrize("network", ["resnet50", "vit_s_16", "swin_t"])
def test_as_on_a_gpu_no_module_needs_a_tenth_more_than_plain_local_learning(network):
    """bfloat16 autocast, batch 256, channels-last images, the network's own cuts into three modules."""
    size = measured(network, 256, as_gpu=True)
    mine, plain = (size.stretches(ways.WAYS["directional"], plain) for plain in (False, True))
    edges = itertools.pairwise((0, *zoo.create(network, 3, device="meta").cuts, len(mine.blocks)))
    for edge in list(edges)[1:]:
        assert mine.peak(*edge) <= 1.1 * plain.peak(*edge)


def test_command_compares_with_the_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(memory.PAPER, ("resnet32", 3), 0.5)
    chosen = ["BP + checkpointing", "plain local", "directional", "fused", "Algorithm 1"]
    arguments = ["--networks", "resnet32", "--batch", "128", "--cuts", "6", "11", "--methods", *chosen]
    assert cli.main(["memory", *arguments, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "memory-cpu.json").read_text())
    rows = result["rows"]
    whole = {row["method"]: row for row in rows if row["module"] is None}
    assert list(whole) == ["BP", *(name for name in chosen if name != "fused")]
    [undefined] = result["undefined"]
    assert undefined["method"] == "fused" and "closed form" in undefined["undefined"]
    assert whole["BP"]["over_bp"] == 1.0 and whole["Algorithm 1"]["paper_over_bp"] == 0.5
    for row in whole.values():
        assert row["over_bp"] == row["peak_bytes"] / whole["BP"]["peak_bytes"]
    parts = {(row["method"], row["module"]): row["over_plain"] for row in rows if row["module"] is not None}
    assert set(parts) == set(itertools.product(["directional", "Algorithm 1"], [2, 3]))
    assert all(parts["directional", k] < 1.3 < 2 < parts["Algorithm 1", k] for k in (2, 3))
    assert rows[-1]["command"].endswith("--networks resnet32 --batch 128 --cuts 6 11")
    assert "(paper: 0.500)" in capsys.readouterr().out


def test_every_method_is_cut_where_it_needs_least(tmp_path):
    arguments = ["--networks", "plainnet4", "--batch", "16", "--modules", "2", "--out", str(tmp_path)]
    assert cli.main(["memory", *arguments]) == 0
    rows = [row for row in json.loads((tmp_path / "memory-cpu.json").read_text())["rows"] if row["module"] is None]
    assert {row["method"] for row in rows} == set(ways.ways())
    for row in rows:
        if row["count"] == 2:
            size, way = measured("plainnet4", 16), ways.ways()[row["method"]]
            peaks = [size.step(way, (cut,)) for cut in (1, 2, 3)]
            assert row["peak_bytes"] < 1.05 * min(peaks)  # gradients of the modules before are left in .grad here


def test_what_has_too_many_cuts_to_try_is_cut_as_the_network_is(monkeypatch):
    """A method that is measured by whole steps; that there are fewer blocks is an error all the same."""
    monkeypatch.setattr(best_cuts, "MOST_STEPS", 2)
    size, dni = measured("plainnet4", 4), ways.ways()["dni"]
    assert size.cuts(dni, 2) == zoo.create("plainnet4", 2, device="meta").cuts and size.cuts(dni, 1) == ()
    with pytest.raises(UsageError, match="--modules must be 1 to 4"):
        size.cuts(dni, 5)


def test_the_part_cuts_is_the_search_of_the_driver(tmp_path, capsys):
    arguments = ["--networks", "plainnet4", "--batch", "16", "--modules", "2", "5", "--methods", "directional"]
    assert cli.main(["cuts", *arguments, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "cuts-cpu.json").read_text())
    [row], [undefined] = result["rows"], result["undefined"]
    made = Stretches(zoo.create("plainnet4"), ways.WAYS["directional"].make(), *zoo.inputs("plainnet4", 16), Sizes())
    assert row["peak_bytes"] == min(max(made.peak(0, cut), made.peak(cut, 4)) for cut in (1, 2, 3))
    assert "--modules must be 1 to 4" in undefined["undefined"] and "not defined" in capsys.readouterr().out


def test_wrong_engine_gives_no_number(monkeypatch, tmp_path, capsys):
    right = sgr_kernels.engines.directional.reconciled
    monkeypatch.setattr(
        sgr_kernels.engines.directional,
        "reconciled",
        lambda passes, first, points, weight, inverse: right(passes, first, points, -weight, inverse),
    )
    arguments = ["--networks", "plainnet4", "--modules", "2", "--methods", "directional", "--out", str(tmp_path)]
    assert cli.main(["memory", *arguments]) == 1
    result = json.loads((tmp_path / "memory-cpu.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["BP"]
    assert "directional in module 2 is wrong" in capsys.readouterr().err
