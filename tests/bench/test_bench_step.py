"""The part "step": every method computes what it claims before it is timed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest
import torch
from helpers import Products, replace_operator
from sgr_bench import cli, step, stored, traced, ways, zoo
from sgr_bench import timing as timing_module
from sgr_bench.checks import WrongResult, cosine, relative_error
from sgr_train import methods
from sgr_train.networks.network import LocalModule, Network
from torch import nn

import sgr_kernels as sk
import sgr_kernels.engines.directional
import sgr_kernels.engines.fused
from sgr_kernels.gpu_path import cpu_as_gpu
from sgr_kernels.operators.sgr_loss import sgr_loss


def plainnet(batch: int = 4):
    torch.manual_seed(0)
    return zoo.create("plainnet4"), *zoo.inputs("plainnet4", batch)


def gradient_of(name: str, network: Network, x, y) -> torch.Tensor:
    torch.manual_seed(0)
    made = ways.Step(ways.ways()[name], network, x)
    made(x, y)
    return ways.gradient(made.network)


def test_methods_give_their_gradients():
    network, x, y = plainnet()
    found = {name: gradient_of(name, network, x, y) for name in ways.WAYS}
    plain, published = found["plain local"], found["Algorithm 1"]
    assert cosine(plain, published) < 0.9  # the SGR term is not lost in the rest
    for name in ("directional", "fused", "directional + checkpointing"):
        assert cosine(found[name] - plain, published - plain) > 0.999
    for name in ("BP", "plain local"):
        assert relative_error(found[f"{name} + checkpointing"], found[name]) < 1e-6
    assert relative_error(found["reforward"], plain) < 1e-6  # nothing is updated between
    assert relative_error(found["BP"], plain) > 0.1


@pytest.mark.parametrize(("name", "side"), [("autograd", 3), ("Algorithm 1", 32)])
def test_algorithm_1_has_the_derivatives_of_torch(name, side):
    network, x, y = plainnet()
    made = ways.Step(ways.WAYS[name], network, x)
    with cpu_as_gpu(), Products() as products:  # there no tensor is too small
        made(x, y)
    assert max(products.filters) == (side, side)


def test_a_call_takes_a_step_of_every_kind():
    network, x, y = plainnet()
    steps = {name: ways.Step(way, network, x) for name, way in ways.WAYS.items()}
    assert {name: made.steps for name, made in steps.items() if made.steps > 1} == {ways.EVERY_NTH: 4, "greedy": 4}
    reconciled, trained = [], []
    lazy, greedy = steps[ways.EVERY_NTH], steps["greedy"]
    step_of, phase_of = lazy.method.step, greedy.method.step
    lazy.method.step = lambda *args: (step_of(*args), reconciled.append(lazy.method.reconcile))
    greedy.method.step = lambda *args: (phase_of(*args), trained.append(greedy.method.active))
    for _ in range(2):
        lazy(x, y)
        greedy(x, y)
        assert network.training and all(module.training for module in network.modules())
    assert reconciled == 2 * [True, False, False, False] and trained == 2 * [0, 1, 2, 3]


def test_methods_share_blocks_and_nothing_else():
    network, x, _ = plainnet()
    lazy, plain = (ways.Step(ways.WAYS[name], network, x) for name in (ways.EVERY_NTH, "plain local + checkpointing"))
    assert network[0].aux is None and lazy.network[0].aux is not None and plain.network[0].aux is None
    assert type(network[0].body[0]) is type(lazy.network[0].body[0]) is not type(plain.network[0].body[0])
    parameters = [[id(p) for p in each.parameters()] for each in (network, lazy.network, plain.network)]
    assert parameters[0] == parameters[1] == parameters[2]


def test_traced_algorithm1_is_algorithm1():
    torch.manual_seed(0)

    def module(inputs: int) -> LocalModule:
        body = nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU())
        return LocalModule(body, sk.CrossEntropyHead(nn.Linear(8, 3)))

    network, x, y = Network([module(5), module(8)], (5,), 3), torch.randn(16, 5), torch.randint(3, (16,))
    run = traced.compiled_algorithm1(network, x, y)
    network.zero_grad()
    run()
    compiled = ways.gradient(network)
    assert relative_error(compiled, gradient_of("Algorithm 1", network, x, y)) < 1e-4
    assert relative_error(compiled, gradient_of("plain local", network, x, y)) > 1e-2


def test_command_measures_steps_and_modules(tmp_path, capsys):
    options = ["--networks", "resnet32", "--modules", "3", "--batch", "4", "--budget", "0.1"]
    selected = ["--methods", "BP", "directional", ways.EVERY_NTH]
    assert cli.main(["step", *options, *selected, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "step-cpu.json").read_text())
    whole = {row["method"]: row for row in result["rows"] if row["module"] is None}
    assert list(whole) == ["BP", "directional", ways.EVERY_NTH]
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
    chosen = {"BP", "directional", ways.EVERY_NTH, "fused"}
    found = run(tmp_path, "--methods", *chosen)
    wrong = {engine, ways.EVERY_NTH} if engine == "directional" else {engine}
    assert found["failures"].keys() == wrong and set(found["rows"]) == chosen - wrong
    assert f"whole step, {engine}: {engine} in module 2 is wrong" in found["failures"][engine]
    assert f"{engine} in module 2 is wrong" in capsys.readouterr().err


def test_a_wrong_kernel_gives_no_number(monkeypatch, tmp_path):
    """Every engine may use it: the truth is Algorithm 1 on the reference."""
    right = sgr_loss.on("cpu")

    def wrong(*args):
        loss, coefficients = right(*args)
        return loss, coefficients * torch.tensor([[1.0], [0.5], [1.0], [1.0]])  # beta

    replace_operator(monkeypatch, sgr_loss, wrong)
    found = run(tmp_path, "--methods", "BP", "directional", ways.EVERY_NTH)
    assert found["rows"] == ["BP"] and found["failures"].keys() == {"directional", ways.EVERY_NTH}


@pytest.fixture
def spoilt(monkeypatch):
    """``spoilt(method, after)``: ``after(network, x)`` comes before its last module is said to be complete."""

    def spoil(name: str, after) -> None:
        kind = methods.REGISTRY.find(name)
        right = kind.step

        def step(self, network, x, y, update=methods.no_update):
            def spoilt_update(k):
                if k == len(network) - 1:
                    after(network, x)
                update(k)

            return right(self, network, x, y, spoilt_update)

        monkeypatch.setattr(kind, "step", step)

    return spoil


def test_a_method_that_raises_does_not_stop_the_others(spoilt, tmp_path):
    def fail(network, x):
        raise RuntimeError("CUDA out of memory.\n  Tried to allocate 2 GiB")

    spoilt("reforward", fail)
    found = run(tmp_path, "--methods", "BP", "reforward", "directional")
    assert found["rows"] == ["BP", "directional"]
    expected = "whole step, reforward: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
    assert found["failures"]["reforward"].endswith(expected)


def test_a_gradient_that_is_not_finite_gives_no_number(spoilt, tmp_path):
    def not_finite(network, x):
        next(network[1].body.parameters()).grad[0] = torch.nan

    spoilt("reforward", not_finite)
    found = run(tmp_path, "--methods", "BP", "reforward")
    assert found["rows"] == ["BP"] and "0.weight is not finite" in found["failures"]["reforward"]


def test_checkpointing_changes_no_gradient(spoilt, tmp_path):
    def wrong(network, x):
        if type(network[0].body[0]).__name__ == "Checkpointed":
            next(network.parameters()).grad.mul_(2)

    spoilt("bp", wrong)
    found = run(tmp_path, "--methods", "BP", "BP + checkpointing")
    assert found["rows"] == ["BP"] and "its gradient is wrong" in found["failures"]["BP + checkpointing"]


def test_a_method_that_is_not_defined_says_why_and_is_no_failure(tmp_path, capsys):
    options = ["--networks", "resnet14", "--batch", "2", "--budget", "0.1", "--methods", "BP", "fused", "--whole"]
    assert cli.main(["step", *options, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "step-cpu.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["BP"] and result["failures"] == []
    [row] = result["undefined"]
    assert row["method"] == "fused" and "closed form for chains of Linear, Conv2d" in row["undefined"]
    assert "not defined: resnet14, batch 2, K=3, float32, whole step, fused: --engine fused" in capsys.readouterr().out


PLUGIN = '''
from torch import nn
from sgr_train import methods, networks


@networks.register("plugged_network")
def plugged_network(image_shape):
    """Two convolutions."""
    return [nn.Sequential(nn.Conv2d(image_shape[0], 8, 3), nn.Tanh()), nn.Sequential(nn.Conv2d(8, 8, 3), nn.Tanh())]


@methods.register("plugged_method")
class PluggedMethod(methods.Layerwise):
    """Layerwise by another name."""

    def __init__(self):
        super().__init__(engine="autograd")
'''


def test_networks_and_methods_of_plug_ins_are_measured(tmp_path):
    """In a process of its own: what is registered stays."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    options = ["--plugin", "plugin.py", "--networks", "plugged_network", "--batch", "2", "--out", ".", "--threads", "1"]
    parts = [["step", *options, "--budget", "0.1", "--whole"], ["memory", *options, "--modules", "2"]]
    code = f"import sys; from sgr_bench.cli import main; sys.exit(max(map(main, {parts})))"
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for part in ("step", "memory"):
        result = json.loads((tmp_path / f"{part}-cpu.json").read_text())
        whole = {row["method"]: row for row in result["rows"] if row["module"] is None}
        assert set(whole) | {row["method"] for row in result["undefined"]} == {*ways.ways(), "plugged_method"}
        assert whole["plugged_method"]["peak_bytes"] == whole["plain local"]["peak_bytes"]
        assert "--plugin plugin.py" in whole["plugged_method"]["command"]


def test_a_plug_in_that_fails_is_named(tmp_path, capsys):
    (tmp_path / "plugin.py").write_text("1 / 0")
    assert cli.main(["step", "--plugin", str(tmp_path / "plugin.py")]) == 2
    assert "plugin.py fails: ZeroDivisionError" in capsys.readouterr().err


class TestCaptured:
    """Whole steps as CUDA graphs, with graphs that can be had without a GPU."""

    OPTIONS = "--networks", "plainnet4", "--batch", "4", "--budget", "0.1", "--methods", "BP", ways.EVERY_NTH

    @pytest.fixture(autouse=True)
    def everywhere(self, monkeypatch):
        monkeypatch.setattr(step, "CAPTURED_ON", ("cpu",))

    def rows(self, folder, status: int, *options: str) -> dict[str, dict]:
        assert cli.main(["step", *self.OPTIONS, *options, "--out", str(folder)]) == status
        assert stored.read(folder)
        result = json.loads((folder / "step-cpu.json").read_text())
        return {row["method"]: row for row in (*result["rows"], *result["failures"])}

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_they_are_timed_after_all_eager_ones(self, monkeypatch, spoilt, tmp_path, precision):
        order = []

        def shows(network, x):
            order.append((torch.is_autocast_enabled("cpu"), x.is_contiguous(memory_format=torch.channels_last)))

        spoilt("bp", shows)
        monkeypatch.setattr(step, "replayed", lambda make: make())
        rows = self.rows(tmp_path, 0, "--precision", precision)
        lazy = ways.EVERY_NTH
        assert list(rows) == ["BP", lazy, "BP, captured", f"{lazy}, captured"]
        half = precision == "bfloat16"
        assert set(order) == {(half, half), (False, half)}  # what a method claims is checked in float32
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


def test_a_run_of_several_steps_is_timed_by_the_step():
    timing, network = timing_module.Timing(4.0, 3.0, 5.0, 7), nn.Identity()
    expected = {"seconds": 1.0, "low": 0.75, "high": 1.25, "repeats": 7}
    assert step._of_one_step(step.Run(print, network, 4), timing) == expected
    assert step._of_one_step(step.Run(print, network), timing) == timing._asdict()


def test_on_a_gpu_networks_of_imagenet_are_in_half_precision():
    parser = argparse.ArgumentParser()
    step.add_options(parser)
    args = parser.parse_args([])
    args.quick, args.device = False, "cuda"
    cases = [tuple(case) for case in step.cases(args)]
    assert cases[:3] == [
        ("resnet50", 3, 256, "bfloat16"),
        ("resnet32", 3, 128, "float32"),
        ("resnet32", 16, 128, "float32"),
    ]


def test_limit_of_agreement_holds():
    network, x, y = plainnet()
    directional = ways.Step(ways.WAYS["directional"], network, x)
    with pytest.raises(WrongResult, match="directional in module 2 is wrong"):
        ways.require_agreement("directional", directional, ways.truth(network, x, y), limit=0.0)
