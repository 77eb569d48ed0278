"""The part "compiled": modules that are compiled without a graph break, and found to do the same."""

from __future__ import annotations

import json

import torch
from sgr_bench import cli
from torch import nn


def without_a_compiler(part: nn.Module, fullgraph: bool):
    assert fullgraph
    return compile_module(part, fullgraph=True, backend="aot_eager")  # what takes long is left out


compile_module = torch.compile


def test_steps_of_eager_and_of_compiled_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", without_a_compiler)
    arguments = ["compiled", "--quick", "--batch", "8", "--repeats", "3", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    rows = json.loads((tmp_path / "compiled-cpu.json").read_text())["rows"]
    kinds = {f"{code}, {method}" for code in ("eager", "compiled") for method in ("plain local", "directional")}
    assert {row["method"] for row in rows} == kinds
    for row in rows:
        assert (row["network"], row["batch"]) == ("vit_cifar", 8)
        assert row["warm_up"] > row["seconds"] > 0 and row["error"] < 0.05


def test_code_that_was_compiled_wrongly_gives_no_number(tmp_path, monkeypatch, capsys):
    def wrong(part: nn.Module, fullgraph: bool):
        return lambda *args: part(*args).sin()

    monkeypatch.setattr(torch, "compile", wrong)
    assert cli.main(["compiled", "--quick", "--batch", "8", "--out", str(tmp_path)]) == 1
    assert "compiled vit_cifar is wrong" in capsys.readouterr().err
