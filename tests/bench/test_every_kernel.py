"""every_kernel calls every operator, and notices if one is wrong in any of its results, fails, or has no case."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from helpers import device_of, replace_operator, spoilt
from sgr_bench import cases
from sgr_bench.cases import case
from sgr_bench.every_kernel import check, main

import sgr_kernels as sk
from sgr_kernels.operators import registered
from sgr_kernels.operators.cross_entropy import cross_entropy_hvp
from sgr_kernels.operators.gate_bits import record_relu
from sgr_kernels.operators.sgr_loss import sgr_loss_backward
from sgr_kernels.operators.sgr_shift import sgr_shift

pytestmark = pytest.mark.skipif(sk.backends()["cpu"] != "ok", reason="the C++ operators are not built")

OPERATORS = {operator.name: operator for operator in registered() if operator.has("cpu")}
RESULTS = [
    (name, index)
    for name, operator in OPERATORS.items()
    for index in range(len(operator.overload("cpu")._schema.returns))
]
IN_PLACE = [(name, None) for name, operator in OPERATORS.items() if operator.overload("cpu")._schema.is_mutable]
FEW = 3000  # elements
right = case.exact


def test_nothing_is_wrong_here(backend):
    assert check(backend, device_of(backend)) == []


@pytest.mark.parametrize("element", [0, -1])
@pytest.mark.parametrize(("name", "index"), RESULTS + IN_PLACE)
def test_every_result_of_every_operator_is_compared(monkeypatch, name, index, element):
    replace_operator(monkeypatch, OPERATORS[name], spoilt(OPERATORS[name], index, element))
    problems = check("cpu", "cpu", ["float32"], largest=FEW)
    assert any(re.search(rf"cpu {name} float32, .*: relative error", problem) for problem in problems), problems


def test_nan_is_wrong(monkeypatch):
    nan = torch.tensor(torch.nan)
    replace_operator(monkeypatch, sgr_loss_backward, lambda grad_loss, delta, *_: nan.expand_as(delta))
    assert "sgr_loss_backward" in check("cpu", "cpu", ["float32"], largest=FEW)[0]


def test_a_result_of_another_shape_is_wrong(monkeypatch):
    replace_operator(monkeypatch, sgr_shift, lambda x, *_: x[:1])
    assert "WrongResult: shape (1, 7), expected (3, 7)" in check("cpu", "cpu", ["float32"], largest=FEW)[0]


def test_an_operator_that_fails_does_not_hide_the_others(monkeypatch):
    def fail(*_):
        raise RuntimeError("no such kernel image")

    replace_operator(monkeypatch, record_relu, fail)
    replace_operator(monkeypatch, cross_entropy_hvp, spoilt(cross_entropy_hvp, 0, 0))
    problems = " ".join(check("cpu", "cpu", ["float32"], largest=FEW))
    assert "record_relu float32, after 0 results: RuntimeError: no such kernel image" in problems
    assert "cross_entropy_hvp float32, hvp" in problems


def test_an_operator_without_a_case_is_an_error(monkeypatch, capsys):
    monkeypatch.setitem(cases.all_of_them(), sgr_shift, dataclasses.replace(cases.of(sgr_shift), sizes=()))
    assert main(["--dtypes", "float64", "--backend", "cpu"]) == 1
    assert capsys.readouterr().err == "cpu: sgr_shift has no case in float64\n"


def test_under_a_memory_checker_there_is_little_but_our_kernels(monkeypatch, capsys):
    """The truth is computed on the CPU, and what is made of other operators is left out."""
    places = []
    monkeypatch.setattr(case, "exact", lambda argument, device=None: places.append(device) or right(argument, device))
    assert main(["--dtypes", "float32", "--backend", "cpu", "--sanitized"]) == 0
    assert set(places) == {"cpu"}
    names = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert names == {name for name, operator in OPERATORS.items() if operator.composed is None} != set(OPERATORS)


def test_the_truth_is_computed_where_the_operator_runs(monkeypatch):
    devices = []
    monkeypatch.setattr(case, "exact", lambda argument, device=None: devices.append(device) or right(argument, device))
    assert check("cpu", "cpu", ["float32"], largest=FEW) == [] and set(devices) == {None}
    there = right(torch.ones(2, device="meta"))
    assert there.device.type == "meta" and there.dtype == torch.float64


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_backend_that_is_missing_is_an_error(capsys):
    assert main(["--device", "cuda", "--backend", "cuda"]) == 1
    assert "backend 'cuda' cannot run here" in capsys.readouterr().err
