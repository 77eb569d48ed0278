"""Time and memory of a step, for a comparison: of the tensors that a step makes, with the cuts that the run has."""

from __future__ import annotations

import pytest
import torch
from sgr_train import methods
from sgr_train.build import build
from sgr_train.config import RunConfig
from sgr_train.loader import Facts
from sgr_train.memory.live import peak_live_bytes
from sgr_train.settings import make
from sgr_train.step_costs import with_step_costs

FACTS = Facts(1078, 10, (1, 8, 8))
SUMMARIES = [{"seconds_per_epoch": seconds, "cuts": [1, 2]} for seconds in (3.2, 6.4)]
SMALL = {"depth": 3, "width": 12}


@pytest.mark.parametrize("method", ["bp", "layerwise", "sgr"])
def test_memory_is_that_of_a_step_with_numbers(method):
    """Of its second one: the first is checked."""
    config = make(RunConfig, method=method, **SMALL)
    network, made = build(config, 10, (1, 8, 8))
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))

    def step():
        made.step(network, x, y, lambda k: network[k].zero_grad())

    step()
    for row in with_step_costs(config, SUMMARIES, FACTS):
        assert row["step_memory_bytes"] == pytest.approx(peak_live_bytes(step), rel=0.01)


def test_time_is_that_of_an_update():
    """Of 1078 images 16 batches of 64, or 8 updates of two; fewer images than a batch make one."""
    for settings, updates in (({}, 16), ({"accumulate": 2}, 8), ({"batch_size": 2000}, 1)):
        found = with_step_costs(make(RunConfig, method="bp", **SMALL, **settings), SUMMARIES, FACTS)
        assert [row["seconds_per_step"] * updates for row in found] == pytest.approx([3.2, 6.4])


def test_the_cuts_are_those_of_the_run():
    """Those that "auto" has found are not looked for again."""
    config = make(RunConfig, method="layerwise", cuts=("auto",), modules=2, depth=4, width=12)
    peaks = [with_step_costs(config, [{**SUMMARIES[0], "cuts": cuts}], FACTS)[0] for cuts in ([1], [3])]
    fixed = [make(RunConfig, method="layerwise", cuts=cuts, depth=4, width=12) for cuts in ((1,), (3,))]
    expected = [with_step_costs(each, SUMMARIES, FACTS)[0] for each in fixed]
    assert [row["step_memory_bytes"] for row in peaks] == [row["step_memory_bytes"] for row in expected]
    assert peaks[0] != peaks[1]


def test_a_method_that_looks_at_numbers_is_named_and_left_without(capsys, monkeypatch):
    def step(self, network, x, y, update):
        assert float(x.sum()) != 0.0

    monkeypatch.setattr(methods.bp, "step", step)
    [row] = with_step_costs(make(RunConfig, method="bp", **SMALL), SUMMARIES[:1], FACTS)
    assert row["step_memory_bytes"] is None and row["seconds_per_step"] > 0
    assert "--method bp: the memory of its step could not be measured" in capsys.readouterr().err
