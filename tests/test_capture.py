"""Whole steps in CUDA graphs, as far as that shows without a GPU: no copy from the host, and no value is read."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_check import CaptureCheck, capturing, on_meta
from networks import module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sgr_kernels as sk
from sgr_kernels import engines

# --- steps ------------------------------------------------------------------------------------------------------------


def chain():
    """What the fused engine takes."""
    body = nn.Sequential(sk.Conv2dReLU(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    return body, sk.CrossEntropyHead(nn.Linear(4, 3)), *batch(3, 6, 6)


def chain_with_features():
    """A head with a graph of its own."""
    head = sk.CrossEntropyHead(nn.Linear(4, 3), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softplus()))
    return sk.Conv2dReLU(3, 4, 3), head, *batch(3, 6, 6)


def one_layer():
    return sk.LinearReLU(6, 4), sk.CrossEntropyHead(sk.ETFClassifier(3, 4)), *batch(6)


def batch(*shape: int):
    return torch.randn(5, *shape), torch.zeros(5, dtype=torch.int64), torch.randn(5, *shape)


ENGINES = {
    "plain": {"engine": "autograd"},
    "autograd": {"engine": "autograd"},
    "fused": {"engine": "fused"},
    "fused, none": {"engine": "fused", "curvature": "none"},
    "directional": {"engine": "directional"},
    "directional, central": {"engine": "directional", "order": 2},
}


def check_steps(make: Callable, engine: str, *contexts: contextlib.AbstractContextManager, **options) -> None:
    """One step outside, then those that are checked, each in a context, on the tensors that ``make`` gives."""
    body, head, x, y, delta_pre = make()
    delta_pre = None if engine == "plain" else delta_pre
    options = {"weight": 0.3, **ENGINES[engine], **options}
    sk.local_step(body, head, x, y, delta_pre, **options)
    for context in contexts or [contextlib.nullcontext()]:
        with CaptureCheck(body, head, x, y, delta_pre, *options.values()) as check, context:
            step = sk.local_step(body, head, x, y, delta_pre, **options)
        check.require([step, [p.grad for p in body.parameters()]])


@pytest.fixture
def requested(request, monkeypatch):
    """A backend, whether or not it can run here: on "meta" there are shapes alone."""
    monkeypatch.setattr(sys.modules["sgr_kernels.backends"], "_requested", request.param)


@pytest.mark.parametrize(
    ("requested", "floor"),
    [("reference", 0.0), ("reference", 0.3), ("cpu", 0.3), ("triton", 0.0), ("cuda", 0.3)],
    indirect=["requested"],
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("requested")
def test_steps_of_chains_can_be_captured(engine, floor):
    with on_meta():
        for make in (chain, chain_with_features, one_layer):
            check_steps(make, engine, weight=torch.full((), 0.3), relative_floor=floor)


@pytest.mark.parametrize("engine", ["autograd", "directional, central"])
@pytest.mark.parametrize("name", ["resnet", "vgg", "swin"])
def test_steps_of_networks_can_be_captured(name, engine):
    with on_meta():
        check_steps(partial(module, name), engine, grad_scale=8.0, relative_floor=0.3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_weight_on_the_host_is_a_number(engine):
    with on_meta():
        check_steps(one_layer, engine, weight=torch.tensor(0.3, device="cpu"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_weight_that_follows_the_gradients_can_be_captured(engine):
    with on_meta():
        for make in (chain, chain_with_features, one_layer):
            check_steps(make, engine, weight=sk.RelativeWeight(0.1))


@pytest.mark.parametrize(
    ("name", "engine"), [*(("chain", engine) for engine in ENGINES), ("resnet", "directional"), ("vit", "directional")]
)
def test_steps_under_autocast_can_be_captured(name, engine):
    """On fake tensors, since "meta" has no autocast. Casts of weights that it keeps must not get into or out of one."""
    make = chain if name == "chain" else partial(module, name)
    captured = mock.patch.object(engines, "is_capturing", lambda device: True)
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
        check_steps(make, engine, captured, contextlib.nullcontext(), relative_floor=0.3)


# --- what is checked once ---------------------------------------------------------------------------------------------


class OtherEveryTime:
    """A body that two passes do not agree on."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1.0)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * next(self.numbers)


def square(features: Tensor, y: Tensor) -> Tensor:
    return features.square().mean()


class Wrong(torch.autograd.Function):
    """Squares, with a backward pass that is not their derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x.abs() * grad


WRONG = {
    "directional": (OtherEveryTime, square, "two passes over the same input differ"),
    "fused": (partial(nn.Linear, 6, 6), lambda features, y: Wrong.apply(features).mean(), "not that of the loss"),
}


@pytest.mark.parametrize("where", [on_meta, FakeTensorMode])
@pytest.mark.parametrize("engine", WRONG)
def test_what_was_checked_without_numbers_is_checked_with_them(engine, where):
    make, head, message = WRONG[engine]
    body = make()

    def step(body):
        x, y, delta_pre = batch(6)
        sk.local_step(body, head, x, y, delta_pre, weight=0.3, engine=engine)

    with where():
        step(body if engine == "directional" else make())
    with pytest.raises(RuntimeError, match=message):
        step(body)


@pytest.mark.parametrize("engine", WRONG)
def test_a_capture_needs_a_checked_step_before(engine):
    body, head, x, y, delta_pre = chain_with_features()
    step = partial(sk.local_step, body, head, x, y, delta_pre, weight=0.3, engine=engine)
    with pytest.raises(RuntimeError, match="first step outside of the capture"), capturing():
        step()
    assert all(p.grad is None for p in body.parameters())
    step()
    expected = step()
    with capturing():
        torch.testing.assert_close(step(), expected)


@pytest.mark.parametrize("engine", ["autograd", "fused", "directional"])
def test_checks_leave_the_streams_alone(engine):
    """The first step, which is checked, draws what an ordinary pass over the same head does."""

    def head(features, y):
        return F.dropout(features, 0.3).square().mean()

    body, (x, y, delta_pre) = sk.LinearReLU(6, 6), batch(6)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    sk.local_step(body, head, x, y, delta_pre, weight=0.3, engine=engine)
    after = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    head(body(x), y)
    assert after == (torch.rand(()), random.random(), np.random.rand())


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU captures here")
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("engine", ENGINES)
def test_replays_give_what_steps_give(engine, floor):
    with torch.device("cuda"):
        body, head, x, y, delta_pre = chain()
    body, head, x, delta_pre = (each.double() for each in (body, head, x, delta_pre))  # sums have other orders
    delta_pre = None if engine == "plain" else delta_pre
    options = {"weight": 0.3, "relative_floor": floor, **ENGINES[engine]}
    step = partial(sk.local_step, body, head, x, y, delta_pre, **options)

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in (*body.parameters(), *head.parameters())]

    step()
    graph = torch.cuda.CUDAGraph()
    body.zero_grad(), head.zero_grad()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    replayed = gradients()
    body.zero_grad(), head.zero_grad()
    torch.testing.assert_close(captured, step())
    torch.testing.assert_close(replayed, gradients())


# --- the page about it ------------------------------------------------------------------------------------------------

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "cuda-graphs.md"


def test_the_code_of_the_page_runs(monkeypatch):
    """On a CPU, where nothing is captured, but what is seen of a capture is."""
    captures = mock.Mock(side_effect=lambda graph: capturing())
    for name, stand_in in (("Stream", mock.Mock()), ("current_stream", mock.Mock()), ("CUDAGraph", mock.Mock())):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", captures)
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code.count('device = "cuda"\n') == 1
    setup, rest = code.replace('device = "cuda"', 'device = "cpu"').split("def train_on_batch")
    names: dict = {}
    exec(compile(setup, PAGE.name, "exec"), names)
    before = names["bodies"][1][0].weight.clone()
    exec(compile(f"def train_on_batch{rest}", PAGE.name, "exec"), names)
    assert captures.call_count == 1
    assert not torch.equal(names["bodies"][1][0].weight, before)
