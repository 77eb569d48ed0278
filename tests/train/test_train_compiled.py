"""--compile: blocks are compiled where a method calls them, and do the same; else the method is refused by name."""

from __future__ import annotations

import shutil

import pytest
import torch
from sgr_train import compiled, train
from test_train_loop import assert_same_state
from train_helpers import TINY_FLAGS

SMALL = {"epochs": 1, "depth": 3, "train_subset": 64}
METHODS = {
    "bp": {},
    "reforward": {},
    "greedy": {"epochs": 2},
    "sgr": {"engine": "directional"},
    "drtp": {},
}
REFUSED = {
    "--method fa": "--method fa sends gradients back through other matrices",
    "--method pepita --norm none --head linear": "--method pepita calls the layers inside of blocks one by one",
    "--engine autograd": "--engine autograd differentiates twice",
    "--engine fused --norm none": "engine fused computes layers in closed form",
    "--method layerwise --norm none": "engine fused computes layers in closed form",  # which auto stands for
    "--bp-free": "engine fused computes layers in closed form",
    "--checkpoint-blocks": "drop --checkpoint-blocks",
}


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """By a compiler that takes no time, of each graph the images of its batch."""
    found: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        found.extend({each.shape[0] for each in inputs if each.dim() == 4 and each.shape[2:] != (3, 3)})
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    monkeypatch.setattr(compiled, "_require_compiler", lambda device: None)
    torch.compiler.reset()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_compiled_blocks_train_as_they_are(tiny, graphs, method):
    """Those of the training steps: batches that are measured are of other sizes."""
    settings = {**SMALL, "method": method, **METHODS[method]}
    expected, _ = train.train(tiny("eager", **settings))
    assert not graphs
    run, _ = train.train(tiny("compiled", compile=True, **settings))
    assert len(graphs) >= 2 and set(graphs) == {32}
    for name in ("loss", "sgr", "val_accuracy"):
        assert run.history[-1][name] == pytest.approx(expected.history[-1][name], rel=1e-3)
    assert run.state_dict()["network"].keys() == expected.state_dict()["network"].keys()


def test_more_kinds_of_blocks_than_the_compiler_keeps(tiny, graphs):
    """Without a word it would leave the last ones as they are."""
    before = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = 1
    try:
        train.train(tiny(method="bp", compile=True, **SMALL))
        assert len(graphs) > 1 and torch._dynamo.config.recompile_limit > 8
    finally:
        torch._dynamo.config.recompile_limit = before


@pytest.mark.usefixtures("graphs")
def test_a_compiled_run_goes_on(tiny, monkeypatch):
    settings = {**SMALL, "method": "layerwise", "compile": True, "batch_size": 16, "save_every": 2, "ema": 0.5}
    whole, _ = train.train(tiny("whole", **settings))
    config, save, kept = tiny("run", **settings), train.save, []

    def save_and_die(run, config):
        save(run, config)
        kept.append(run.epoch and run.epoch.steps)
        if kept[-1] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.train(config)
    monkeypatch.setattr(train, "save", save)
    assert_same_state(train.train(config)[0], whole)


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_compiled_is_refused_by_name(sgr_train, tmp_path, flags):
    status, text, errors = sgr_train("run", *TINY_FLAGS, *flags.split(), "--compile", "--out", tmp_path / "run")
    assert (status, text) == (2, "") and errors.startswith("sgr-train: --compile: ") and errors.count("\n") == 1
    assert REFUSED[flags] in errors and not (tmp_path / "run").exists()


def test_a_machine_without_a_compiler_is_told_so(sgr_train, tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--method", "bp", "--compile", "--out", tmp_path / "run")
    assert (status, text) == (2, "") and "--compile: torch.compile does not work here" in errors
    assert "no compiler" in errors and errors.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_recipe_with_the_real_compiler(sgr_train, tmp_path):
    small = ("epochs=1", "depth=1", "width=9", "train_subset=64", "compile=true")
    status, text, errors = sgr_train("recipe", "digits-bp", "--set", *small, "--out", tmp_path / "run")
    assert status == 0 and "test accuracy" in text and "sgr-train: " not in errors  # torch may have said something
