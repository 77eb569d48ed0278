"""The part "step": every method computes what it claims before it is timed."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from helpers import replace_operator
from sgr_bench import cli, methods, step, stored, traced
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
    assert result["failures"] == []
    assert len(capsys.readouterr().out.splitlines()) == len(result["rows"]) == 9


def run(folder, *options: str) -> dict:
    """What a command that fails leaves behind: the methods measured, and why the others were not."""
    options = ("--networks", "plainnet4", "--batch", "4", "--budget", "0.1", *options)
    assert cli.main(["step", *options, "--out", str(folder)]) == 1
    result = json.loads((folder / "step-cpu.json").read_text())
    failures = {failure["method"]: failure["failure"] for failure in result["failures"]}
    return {"rows": [row["method"] for row in result["rows"]], "failures": failures}


@pytest.mark.parametrize("engine", ["directional", "fused"])
def test_a_wrong_engine_gives_no_number_and_the_others_do(engine, monkeypatch, tmp_path, capsys):
    module = getattr(sgr_kernels.engines, engine)
    right = module.add_gradients
    monkeypatch.setattr(
        module, "add_gradients", lambda p, gradients: right(p, [g if g is None else -g for g in gradients])
    )
    chosen = {"BP", "directional", methods.EVERY_NTH, "fused"}
    found = run(tmp_path, "--methods", *chosen)
    wrong = {engine, methods.EVERY_NTH} if engine == "directional" else {engine}
    assert found["failures"].keys() == wrong and set(found["rows"]) == chosen - wrong
    assert f"whole step, {engine}: {engine} in module 2 is wrong" in found["failures"][engine]
    assert f"{engine} in module 2 is wrong" in capsys.readouterr().err


def test_a_wrong_kernel_gives_no_number(monkeypatch, tmp_path):
    """Every engine may use it: the truth is Algorithm 1 on the reference."""
    right = sgr_loss.on("cpu")

    def wrong(*args):
        loss, coefficients = right(*args)
        return loss, coefficients * torch.tensor([[1.0], [0.5], [1.0]])  # beta

    replace_operator(monkeypatch, sgr_loss, wrong)
    found = run(tmp_path, "--methods", "BP", "directional", methods.EVERY_NTH)
    assert found["rows"] == ["BP"] and found["failures"].keys() == {"directional", methods.EVERY_NTH}


def test_a_method_that_raises_does_not_stop_the_others(monkeypatch, tmp_path):
    def fail(modules, x, y):
        raise RuntimeError("CUDA out of memory.\n  Tried to allocate 2 GiB")

    monkeypatch.setitem(methods.METHODS, "plain local", fail)
    found = run(tmp_path, "--methods", "BP", "plain local", "directional")
    assert found["rows"] == ["BP", "directional"]
    expected = "whole step, plain local: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert found["failures"]["plain local"].endswith(expected)


def test_a_gradient_that_is_not_finite_gives_no_number(monkeypatch, tmp_path):
    right = methods.METHODS["plain local"]

    def not_finite(modules, x, y):
        right(modules, x, y)
        next(modules[1].body.parameters()).grad[0] = torch.nan

    monkeypatch.setitem(methods.METHODS, "plain local", not_finite)
    found = run(tmp_path, "--methods", "BP", "plain local")
    assert found["rows"] == ["BP"] and "its gradient is not finite" in found["failures"]["plain local"]


def test_checkpointing_has_the_gradient_of_back_propagation(monkeypatch, tmp_path):
    monkeypatch.setitem(methods.METHODS, "BP + checkpointing", methods.METHODS["plain local"])
    found = run(tmp_path, "--methods", "BP + checkpointing")
    assert found["rows"] == [] and "its gradient is wrong" in found["failures"]["BP + checkpointing"]


class TestCaptured:
    """Whole steps as CUDA graphs, with graphs that can be had without a GPU."""

    OPTIONS = "--networks", "plainnet4", "--batch", "4", "--budget", "0.1", "--methods", "BP", methods.EVERY_NTH

    @pytest.fixture(autouse=True)
    def everywhere(self, monkeypatch):
        monkeypatch.setattr(step, "CAPTURED_ON", ("cpu",))

    def rows(self, folder, status: int, *options: str) -> dict[str, dict]:
        assert cli.main(["step", *self.OPTIONS, *options, "--out", str(folder)]) == status
        assert stored.read(folder)
        result = json.loads((folder / "step-cpu.json").read_text())
        return {row["method"]: row for row in (*result["rows"], *result["failures"])}

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_they_are_timed_after_all_eager_ones(self, monkeypatch, tmp_path, precision):
        order, shown = [], methods.METHODS["BP"]

        def shows(modules, x, y):
            order.append((torch.is_autocast_enabled("cpu"), x.is_contiguous(memory_format=torch.channels_last)))
            shown(modules, x, y)

        monkeypatch.setitem(methods.METHODS, "BP", shows)
        monkeypatch.setattr(step, "replayed", lambda make: make())
        rows = self.rows(tmp_path, 0, "--precision", precision)
        lazy = methods.EVERY_NTH
        assert list(rows) == ["BP", lazy, "BP, captured", f"{lazy}, captured"]
        half = precision == "bfloat16"
        assert set(order) == {(half, half)}
        for name in ("BP, captured", f"{lazy}, captured"):
            assert rows[name]["peak_bytes"] is None and 0 <= rows[name]["error"] < 0.05
            assert rows[name]["repeats"] == rows[lazy]["repeats"]

    def test_an_empty_graph_is_found_out(self, monkeypatch, tmp_path):
        monkeypatch.setattr(step, "replayed", lambda make: lambda: None)
        rows = self.rows(tmp_path, 1)
        assert "seconds" in rows["BP"]
        assert "its gradient is wrong: relative error 1.0e+00" in rows["BP, captured"]["failure"]

    def test_a_failed_capture_says_why(self, monkeypatch, tmp_path):
        def replayed(make):
            raise RuntimeError("operation not permitted")

        monkeypatch.setattr(step, "replayed", replayed)
        rows = self.rows(tmp_path, 1)
        assert rows["BP, captured"]["failure"].endswith("BP, captured: RuntimeError: operation not permitted")


def test_the_lazy_method_is_timed_by_the_step():
    times = {"seconds": 4.0, "low": 3.0, "high": 5.0, "peak_bytes": 7}
    assert step._of_one_step(methods.EVERY_NTH, times) == {"seconds": 1.0, "low": 0.75, "high": 1.25, "peak_bytes": 7}
    assert step._of_one_step("directional", times) == times


def test_on_a_gpu_networks_of_imagenet_are_in_half_precision():
    parser = argparse.ArgumentParser()
    step.add_options(parser)
    args = parser.parse_args([])
    args.quick, args.device = False, "cuda"
    cases = [tuple(case) for case in step._cases(args)]
    assert cases[:3] == [
        ("resnet50", 3, 256, "bfloat16"),
        ("resnet32", 3, 128, "float32"),
        ("resnet32", 16, 128, "float32"),
    ]


def test_limit_of_agreement_holds():
    parts, x, y = plainnet()
    with pytest.raises(WrongResult, match="directional in module 2 is wrong"):
        methods.require_agreement(parts, x, y, ["directional"], limit=0.0)
