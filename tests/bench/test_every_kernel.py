"""every_kernel calls every operator, and notices if one is wrong in any of its results, fails, or is new to it."""

from __future__ import annotations

import re

import pytest
import torch
from sgr_bench import every_kernel
from sgr_bench.every_kernel import Rows, check, main

import sgr_kernels as sk
from sgr_kernels import ops

pytestmark = pytest.mark.skipif(sk.backends()["cpu"] != "ok", reason="the C++ operators are not built")

OPERATORS = {name: op for name, op in vars(ops.native).items() if not name.startswith("differentiable_")}
RESULTS = [(name, index) for name, op in OPERATORS.items() for index in range(len(op._schema.returns))]
IN_PLACE = [(name, None) for name, op in OPERATORS.items() if op._schema.is_mutable]


@pytest.fixture
def few_inputs(monkeypatch):
    monkeypatch.setattr(every_kernel, "ROWS", (Rows(2, 0, 9),))
    monkeypatch.setattr(every_kernel, "GATES", (((2, 3, 5), 0),))
    monkeypatch.setattr(every_kernel, "RECORDED", ((99, 1),))
    monkeypatch.setattr(every_kernel, "LOGITS", (((3, 5), 1),))


def spoilt(operator, index, element):
    """The operator with another number in one of its results, or in its first argument."""

    def call(*arguments):
        results = operator(*arguments)
        tensor = arguments[0] if index is None else results[index] if isinstance(results, tuple) else results
        if tensor.numel() > 0:
            tensor[(element,) * tensor.dim()] += 1
        return results

    return call


def test_nothing_is_wrong_here():
    assert check("cpu", "cpu") == []


@pytest.mark.parametrize("element", [0, -1])
@pytest.mark.parametrize(("name", "index"), RESULTS + IN_PLACE)
def test_every_result_of_every_operator_is_compared(few_inputs, monkeypatch, name, index, element):
    monkeypatch.setattr(ops.native, name, spoilt(OPERATORS[name], index, element))
    problems = check("cpu", "cpu", ["float32"])
    assert any(re.search(rf"float32, {name}[, ].*: relative error", problem) for problem in problems), problems


def test_nan_is_wrong(few_inputs, monkeypatch):
    nan = torch.tensor(torch.nan)
    monkeypatch.setattr(ops.native, "sgr_loss_backward", lambda grad_loss, delta, *_: nan.expand_as(delta))
    assert "sgr_loss_backward" in check("cpu", "cpu", ["float32"])[0]


def test_an_operator_that_fails_does_not_hide_the_others(few_inputs, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel image")

    monkeypatch.setattr(ops.native, "record_relu", fail)
    monkeypatch.setattr(ops.native, "cross_entropy_hvp", spoilt(OPERATORS["cross_entropy_hvp"], 0, 0))
    problems = check("cpu", "cpu", ["float32"])
    assert "after 0 results: RuntimeError: no such kernel image" in problems[0]
    assert "cross_entropy_hvp" in problems[1]
    assert problems[2:] == [f"cpu: {name} was not called" for name in ("record_relu_", "replay_relu", "replay_relu_")]


def test_a_forgotten_operator_is_an_error(few_inputs, monkeypatch, capsys):
    monkeypatch.setattr(ops.native, "brand_new", OPERATORS["sgr_shift"], raising=False)
    assert main(["--dtypes", "float64"]) == 1
    assert capsys.readouterr().err == "cpu: brand_new was not called\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_backend_that_is_missing_is_an_error(capsys):
    assert main(["--device", "cuda", "--backend", "cuda"]) == 1
    assert "backend 'cuda' cannot run here" in capsys.readouterr().err
