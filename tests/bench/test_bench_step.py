"""The part "step": every method computes what it claims before it is timed."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import replace_operator
from sgr_bench import cli, methods, traced
from sgr_bench.checks import WrongResult, cosine, relative_error
from sgr_bench.networks import NETWORKS, LocalModule, modules
from torch import nn

import sgr_kernels as sk
import sgr_kernels.engines.directional
import sgr_kernels.engines.fused
from sgr_kernels.operators.sgr_loss import sgr_loss


def plainnet(batch: int = 4):
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    return modules(NETWORKS["plainnet4"], (1, 2, 3), x), x, y


def gradient_of(name: str, parts, x, y) -> torch.Tensor:
    methods.zero_grad(parts)
    torch.manual_seed(0)
    methods.METHODS[name](parts, x, y)
    return methods.gradient(parts)


def test_methods_give_their_gradients():
    parts, x, y = plainnet()
    found = {
        name: gradient_of(name, parts, x, y) for name in methods.METHODS if name not in ("BP", "BP + checkpointing")
    }
    plain, published = found["plain local"], found["Algorithm 1"]
    assert cosine(plain, published) < 0.9  # the SGR term is not lost in the rest
    for name in ("directional", "fused"):
        assert cosine(found[name] - plain, published - plain) > 0.999
    assert relative_error(gradient_of("BP + checkpointing", parts, x, y), gradient_of("BP", parts, x, y)) < 1e-6


def test_lazy_steps_reconcile_once_in_every(monkeypatch):
    parts, x, y = plainnet()
    calls = []
    monkeypatch.setattr(methods, "local", lambda modules, x, y, method: calls.append(method))
    methods.every_nth(parts, x, y)
    assert calls == ["directional", "plain local", "plain local", "plain local"]


def test_traced_algorithm1_is_algorithm1():
    torch.manual_seed(0)

    def module(inputs: int) -> LocalModule:
        body = nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU())
        return LocalModule(body, sk.CrossEntropyHead(nn.Linear(8, 3)))

    parts, x, y = [module(5), module(8)], torch.randn(16, 5), torch.randint(3, (16,))
    run = traced.compiled_algorithm1(parts, x, y)
    methods.zero_grad(parts)
    run()
    compiled = methods.gradient(parts)
    assert relative_error(compiled, gradient_of("Algorithm 1", parts, x, y)) < 1e-4
    assert relative_error(compiled, gradient_of("plain local", parts, x, y)) > 1e-2


def test_command_measures_steps_and_modules(tmp_path, capsys):
    options = ["--networks", "resnet32", "--modules", "3", "--batch", "4", "--budget", "0.1"]
    selected = ["--methods", "BP", "directional", methods.EVERY_NTH]
    assert cli.main(["step", *options, *selected, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "step-cpu.json").read_text())
    whole = {row["method"]: row for row in result["rows"] if row["module"] is None}
    assert list(whole) == ["BP", "directional", methods.EVERY_NTH]
    parts = [(row["module"], row["method"]) for row in result["rows"] if row["module"] is not None]
    assert parts == [(k, name) for k in (2, 3) for name in ("plain local", "directional", "Algorithm 1")]
    for row in result["rows"]:
        assert row["repeats"] >= 3 and 0 < row["low"] <= row["seconds"] <= row["high"]
        assert row["peak_bytes"] > 1e5
    assert 0 < whole["directional"]["error"] < 0.1 and whole["BP"]["error"] is None
    assert len(capsys.readouterr().out.splitlines()) == len(result["rows"]) == 9


@pytest.mark.parametrize("engine", ["directional", "fused"])
def test_wrong_engine_gives_no_number(engine, monkeypatch, capsys):
    module = getattr(sgr_kernels.engines, engine)
    right = module.add_gradients
    monkeypatch.setattr(
        module, "add_gradients", lambda p, gradients: right(p, [g if g is None else -g for g in gradients])
    )
    options = ["--networks", "plainnet4", "--batch", "4", "--budget", "0.1"]
    assert cli.main(["step", *options]) == 1
    output = capsys.readouterr()
    assert output.out == "" and f"{engine} in module 2 is wrong" in output.err


def test_wrong_kernel_gives_no_number(monkeypatch, capsys):
    """Every engine may use it: the truth is Algorithm 1 on the reference."""
    right = sgr_loss.on("cpu")

    def wrong(*args):
        loss, coefficients = right(*args)
        return loss, coefficients * torch.tensor([[1.0], [0.5], [1.0]])  # beta

    replace_operator(monkeypatch, sgr_loss, wrong)
    assert cli.main(["step", "--networks", "plainnet4", "--batch", "4", "--budget", "0.1"]) == 1
    assert capsys.readouterr().out == ""


def test_limit_of_agreement_holds():
    parts, x, y = plainnet()
    with pytest.raises(WrongResult, match="directional in module 2 is wrong"):
        methods.require_agreement(parts, x, y, ["directional"], limit=0.0)
