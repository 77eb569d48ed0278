"""The part "memory": fake tensors tell the truth, the search finds the best cuts, wrong engines give no numbers."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random

import pytest
import torch
from sgr_bench import cli, cuts, memory
from sgr_bench.cuts import Stretches
from sgr_bench.methods import METHODS
from sgr_bench.networks import NETWORKS, modules
from sgr_train.live_memory import peak_live_bytes
from torch._subclasses.fake_tensor import FakeTensorMode

import sgr_kernels.engines.directional

NETWORK = NETWORKS["resnet32"]


@pytest.mark.parametrize("method", ["BP", "BP + checkpointing", "plain local", "directional", "Algorithm 1"])
def test_fake_tensors_need_what_real_ones_do(method):
    def peak(real: bool) -> int:
        with contextlib.nullcontext() if real else FakeTensorMode():
            x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
            parts = modules(NETWORK, (6, 11), x)
            METHODS[method](parts, x, y)  # the first step of a module is checked, with one more pass
            return peak_live_bytes(lambda: METHODS[method](parts, x, y))

    real, fake = peak(True), peak(False)
    assert real > 1e6
    assert abs(fake / real - 1) < 0.005


@pytest.mark.parametrize("as_gpu", [False, True])
def test_peak_of_a_step_is_that_of_its_worst_module(as_gpu):
    stretches, edges = Stretches(NETWORK, 64, as_gpu), [0, 6, 11, 16]
    for method in ("directional", "Algorithm 1"):
        worst = max(stretches.peak(*pair, method) for pair in itertools.pairwise(edges))
        whole = memory._step(stretches, (6, 11), method, "cpu")
        assert worst <= whole < 1.05 * worst  # and the gradients of the modules before it


def test_as_on_a_gpu_a_step_needs_little_more_than_plain_local_learning():
    peaks = {}
    for as_gpu in (False, True):
        stretches = Stretches(NETWORK, 16, as_gpu)
        peaks[as_gpu] = [stretches.peak(6, 11, method) for method in ("directional", "plain local")]
    assert all(0.4 < mine / wide < 0.6 for mine, wide in zip(peaks[True], peaks[False], strict=True))
    ratios = {as_gpu: directional / plain for as_gpu, (directional, plain) in peaks.items()}
    assert ratios[True] < 0.95 * ratios[False]


class _Table:
    """Stretches whose peaks are random numbers: longer ones need not need more."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self.blocks, self.network = [None] * 8, NETWORK._replace(cuts={})
        self.table = {pair: numbers.randrange(1000) for pair in itertools.combinations(range(9), 2)}

    def peak(self, first: int, last: int, method: str, bound: float) -> float:
        return self.table[first, last]


@pytest.mark.parametrize(("seed", "count"), list(itertools.product(range(10), (2, 3, 5, 8))))
def test_search_finds_the_best_of_all_cuts(seed, count):
    table = _Table(seed)
    found, peak = cuts.search(table, count, "directional")
    everything = {
        chosen: max(table.table[pair] for pair in itertools.pairwise([0, *chosen, 8]))
        for chosen in itertools.combinations(range(1, 8), count - 1)
    }
    assert peak == min(everything.values()) == everything[found]


def test_command_compares_with_the_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(memory.PAPER, ("resnet32", 3), 0.5)
    arguments = ["memory", "--networks", "resnet32", "--batch", "128", "--cuts", "6", "11", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    rows = json.loads((tmp_path / "memory-cpu.json").read_text())["rows"]
    whole = {row["method"]: row for row in rows if row["module"] is None}
    assert list(whole) == ["BP", "BP + checkpointing", "directional", "Algorithm 1"]
    assert whole["BP"]["over_bp"] == 1.0 and whole["Algorithm 1"]["paper_over_bp"] == 0.5
    for row in whole.values():
        assert row["over_bp"] == row["peak_bytes"] / whole["BP"]["peak_bytes"]
    parts = {(row["method"], row["module"]): row["over_plain"] for row in rows if row["module"] is not None}
    assert set(parts) == set(itertools.product(["directional", "Algorithm 1"], [2, 3]))
    assert all(parts["directional", k] < 1.3 < 2 < parts["Algorithm 1", k] for k in (2, 3))
    assert rows[-1]["command"].endswith("--networks resnet32 --batch 128 --cuts 6 11")
    assert "(paper: 0.500)" in capsys.readouterr().out


def test_wrong_engine_gives_no_number(monkeypatch, capsys):
    right = sgr_kernels.engines.directional.reconciled
    monkeypatch.setattr(
        sgr_kernels.engines.directional,
        "reconciled",
        lambda passes, first, points, factor: right(passes, first, points, -factor),
    )
    assert cli.main(["memory", "--quick"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and "directional in module 2 is wrong" in output.err


def test_a_stretch_that_needs_too_much_is_given_up_and_measured_again_where_that_is_not_enough():
    stretches, stretch = Stretches(NETWORK, 16), (6, 11, "Algorithm 1")
    exact = Stretches(NETWORK, 16).peak(*stretch)
    assert stretches.peak(*stretch, exact / 2) == math.inf
    assert stretches.peak(*stretch, exact) == math.inf
    assert stretches.peak(*stretch, exact + 1) == exact
    assert stretches.peak(*stretch, exact / 2) == math.inf  # known by now
