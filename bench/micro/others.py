"""Operators that have no benchmark of their own: what they compute, by every backend and by plain torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from sgr_kernels.operators import Operator, registered

from .. import cases
from ..cases.case import Inputs, Size, exact
from .case import Case, Op, Results, Run, Way, nbytes
from .providers import compiled, kernels


def all_but(measured: Iterable[Operator]) -> dict[str, Op]:
    """Operators with timed sizes, but for those that are measured elsewhere."""
    elsewhere = set(measured)
    timed = (each for each in registered() if any(size.timed for size in cases.of(each).sizes))
    return {each.name: _op(each) for each in timed if each not in elsewhere}


def _op(operator: Operator) -> Op:
    def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple:
        return next(iter(cases.of(operator).arguments(Size(shape), Inputs(dtype, device))))

    def case(mode: str, arguments: tuple) -> Case:
        return _case(operator, arguments)

    return Op(("forward",), inputs, case, (operator,))


def _case(operator: Operator, arguments: tuple) -> Case:
    tensors = [each for each in arguments if isinstance(each, Tensor)]

    def make(function) -> Run:
        return lambda: _results(function(*arguments))

    @functools.cache
    def truth() -> Results:
        return _results(operator.on("reference")(*map(exact, arguments)))

    ways = {
        "reference": Way(lambda: make(operator.on("reference")), truth),
        "torch.compile": Way(lambda: make(compiled(operator.reference)), truth),
    }
    for name, kernel in kernels(operator, tensors[0].device.type).items():
        ways[name] = Way(functools.partial(make, kernel), truth)
    return Case(ways, "reference", nbytes(*tensors, *make(operator.on("reference"))()))


def _results(results: Tensor | Results) -> Results:
    return results if isinstance(results, tuple) else (results,)
