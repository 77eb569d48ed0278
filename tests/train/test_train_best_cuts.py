"""``--cuts auto``: the cuts of least memory, for every method, found once."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from sgr_train import build, checkpoint, finished, methods, networks
from sgr_train.errors import UsageError
from sgr_train.memory import best_cuts
from sgr_train.memory.best_cuts import NOTHING, Bounded, Stretches, search
from sgr_train.memory.step import Sizes, step_peak_bytes

LOCAL = ("greedy", "layerwise", "reforward", "sgr")


class Whole(methods.Layerwise):
    """Local learning that no module can be measured of by itself."""

    module_step = property()  # hasattr says no

    def step(self, network, x, y, update=methods.no_update):
        return methods.Layerwise().step(network, x, y, update)


class Curious(Whole):
    def step(self, network, x, y, update=methods.no_update):
        losses = super().step(network, x, y, update)
        return losses if losses[0].item() > 0 else losses


def sample(batch: int = 16, size: int = 32):
    return torch.empty(batch, 3, size, size, device="meta"), torch.empty(batch, dtype=torch.long, device="meta")


def blocks_of(name: str = "resnet32", **options):
    with torch.device("meta"):
        return networks.create(name, num_classes=10, **{"modules": None, **options})


def stretches(name: str, method: str, batch: int = 16, sizes: Sizes | None = None, **options) -> Stretches:
    made = methods.REGISTRY.make(method, **options)
    return Stretches(blocks_of(name), made, *sample(batch), sizes or Sizes())


class Table:
    """Peaks that are random numbers: longer stretches need not need more."""

    def __init__(self, seed: int) -> None:
        numbers = random.Random(seed)
        self.table = {pair: numbers.randrange(1000) for pair in itertools.combinations(range(9), 2)}

    def __call__(self, first: int, last: int, bound: float) -> tuple[float, tuple[int, ...]]:
        peak = self.table[first, last]
        return (peak, ()) if peak < bound else NOTHING


@pytest.mark.parametrize(("seed", "count"), list(itertools.product(range(10), (1, 2, 3, 5, 8))))
def test_search_finds_the_best_of_all_cuts(seed, count):
    peaks = Table(seed)
    everything = {
        chosen: max(peaks.table[pair] for pair in itertools.pairwise([0, *chosen, 8]))
        for chosen in itertools.combinations(range(1, 8), count - 1)
    }
    for start in (tuple(range(1, count)), min(everything, key=everything.get), max(everything, key=everything.get)):
        peak, cuts = search(peaks, 8, start)
        assert peak == min(everything.values()) == everything[cuts]


def test_many_modules_of_many_blocks_take_no_longer_than_few():
    """As resnet110 in 16 modules: all cuts are far too many to try."""
    calls = []

    def peak(first: int, last: int, bound: float):
        calls.append((first, last))
        return (last - first, ()) if last - first < bound else NOTHING

    assert search(peak, 55, tuple(range(1, 16)))[0] == math.ceil(55 / 16)
    assert len(calls) < 55 * 55 * 16


def test_what_is_too_large_is_computed_again_where_that_is_not_enough():
    bounds = []

    def compute(key: int, bound: float):
        bounds.append(bound)
        return (key, ()) if key < bound else NOTHING

    bounded = Bounded(compute)
    asked = [bounded(8, bound=bound)[0] for bound in (4, 4, 3, 8, 9, 9, 8, math.inf)]
    assert asked == [math.inf] * 4 + [8, 8, math.inf, 8]
    assert bounds == [4, 8, 9]


def test_a_stretch_that_needs_too_much_is_given_up():
    measured, again = (stretches("resnet32", "sgr", engine="autograd") for _ in range(2))
    exact = again.peak(6, 11)
    found = [measured.found(6, 11, bound=bound)[0] for bound in (exact / 2, exact, exact + 1, exact / 2)]
    assert found == [math.inf, math.inf, exact, math.inf]


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(gpu=True, autocast=torch.bfloat16)], ids=["wide", "as a gpu"])
@pytest.mark.parametrize("engine", ["directional", "autograd"])
def test_peak_of_a_step_is_that_of_its_worst_module(engine, sizes):
    parts = stretches("resnet32", "sgr", 64, sizes, engine=engine)
    worst = max(parts.peak(*pair) for pair in itertools.pairwise([0, 6, 11, 16]))
    network = blocks_of(cuts=(6, 11))
    whole = step_peak_bytes(network, methods.SGR(engine=engine), *sample(64), sizes)
    assert worst <= whole < 1.02 * worst


@pytest.mark.parametrize("method", [*LOCAL, "whole steps"])
def test_no_cuts_need_less(method):
    make = Whole if method == "whole steps" else lambda: methods.REGISTRY.make(method)
    blocks = blocks_of("plainnet", depth=5)
    found, peak = best_cuts.best_cuts(blocks, make(), *sample(), start=(2, 4))
    peaks = {
        cuts: step_peak_bytes(blocks_of("plainnet", depth=5, cuts=cuts), make(), *sample())
        for cuts in itertools.combinations(range(1, 5), 2)
    }
    assert peaks[found] == min(peaks.values()) < max(peaks.values())
    assert peak == pytest.approx(peaks[found], rel=0.02)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(UsageError, match="--cuts auto: 1365 cuts are more than 500; lower --modules"):
        best_cuts.best_cuts(blocks_of(), Whole(), *sample(), start=(2, 4, 6, 8))
    with pytest.raises(UsageError, match=r"--cuts auto cannot measure this --method \(.*\); give numbers"):
        best_cuts.best_cuts(blocks_of(modules=2), Curious(), *sample(), start=(1,))


AUTO = ("--cuts", "auto", "--modules", "2", "--depth", "3", "--train-subset", "64", "--epochs", "1")


@pytest.mark.parametrize(("method", "cuts"), [("bp", ()), ("layerwise", (1,)), ("sgr", (2,))])
def test_a_run_is_cut_there(method, cuts, sgr_train, tmp_path):
    assert sgr_train("run", *AUTO, "--method", method, "--out", tmp_path / "run")[0] == 0
    trained = finished.load(tmp_path / "run")
    assert trained.network.cuts == cuts


def test_cuts_are_looked_for_once_and_the_weights_are_those_of_any_run(sgr_train, tmp_path, monkeypatch, tiny):
    assert sgr_train("run", *AUTO, "--out", tmp_path / "run")[0] == 0
    torch.manual_seed(0)
    auto = build.build(tiny("a", modules=2, cuts=("auto",)), 10, (1, 8, 8))[0]
    torch.manual_seed(0)
    numbers = build.build(tiny("b", cuts=auto.cuts), 10, (1, 8, 8))[0]
    assert all(torch.equal(a, b) for a, b in zip(auto.parameters(), numbers.parameters(), strict=True))
    monkeypatch.setattr(build, "best_cuts", None)
    read, load = [], checkpoint.load_state
    monkeypatch.setattr(checkpoint, "load_state", lambda path, *run: read.append(path.name) or load(path, *run))
    assert sgr_train("evaluate", tmp_path / "run")[0] == 0
    (tmp_path / "run" / checkpoint.SUMMARY).unlink()  # as of a run that was interrupted
    assert sgr_train("run", "--resume", tmp_path / "run")[0] == 0
    assert read == ["checkpoint.pt"] * 2


def test_every_method_of_a_comparison_has_its_own(sgr_train, tmp_path):
    words = ("--methods", "bp", "sgr", "--seeds", "0", "--out", tmp_path / "all")
    assert sgr_train("compare", *AUTO, *words)[0] == 0


def test_the_number_of_modules_must_be_given(sgr_train, tmp_path):
    status, _, error = sgr_train("run", "--cuts", "auto", "--out", tmp_path / "run")
    assert status == 2 and "--cuts auto needs --modules" in error
