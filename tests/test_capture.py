"""Whole steps in CUDA graphs, as far as that shows without a GPU: no copy from the host, and no value is read."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import Callable
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture_check import CaptureCheck, NotCapturable, capturing
from networks import module
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sgr_kernels as sk
from sgr_kernels import engines

# --- the check notices what a capture refuses, and nothing else -------------------------------------------------------


@contextlib.contextmanager
def on_meta():
    with torch.device("meta"):
        yield


def unseen_by_function_modes(call: Callable):
    with torch._C.DisableTorchFunction():
        return call()


REFUSED = {
    "as_tensor": lambda x: x + torch.as_tensor(0.5, device=x.device),
    "as_tensor of a list": lambda x: x + torch.as_tensor([0.5] * 4, device=x.device),
    "as_tensor of an array": lambda x: x + torch.as_tensor(np.ones(4, np.float32), device=x.device),
    "as_tensor, unseen": lambda x: x + unseen_by_function_modes(lambda: torch.as_tensor(0.5, device=x.device)),
    "tensor": lambda x: x + torch.tensor(0.5, device=x.device),
    "asarray": lambda x: x + torch.asarray(0.5, device=x.device),
    "new_tensor": lambda x: x + x.new_tensor(0.5),
    "new": lambda x: x + x.new([0.5] * 4),
    "list as index": lambda x: x[[0, 1]],
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "condition": lambda x: x if x.sum() > 0 else -x,
    "equal": lambda x: torch.equal(x, x + 1),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: torch.ones(4, device="cpu").to(x.device),
    "copy": lambda x: x.copy_(torch.ones(4, device="cpu")),
    "copy of a number": lambda x: x.copy_(torch.tensor(1.0, device="cpu")),
    "number in where": lambda x: torch.where(x > 0, x, torch.tensor(1.0, device="cpu")),
    "mask": lambda x: x[x > 0],
    "mask that is written": lambda x: x.index_put_((x > 0,), torch.zeros_like(x)),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "fill by a tensor": lambda x: x.masked_fill(x > 0, x.sum()),
}
ALLOWED = {
    "numbers of Python": lambda x: (2 * x - 1).clamp(min=0.5) / 3,
    "filled": lambda x: x + torch.full((4,), 0.5, device=x.device) + x.new_full((), 2.0) + x.new_zeros(4),
    "number of Python in where": lambda x: torch.where(x > 0, 0.0, x).masked_fill(x == 0, 1.0),
    "number on the host": lambda x: x * torch.tensor(2.0, device="cpu"),
    "indices": lambda x: x[torch.arange(2, device=x.device)],
    "other dtype": lambda x: x.double().to(torch.bfloat16),
    "random": lambda x: torch.rand_like(x).bernoulli_(0.5),
}


# Fake tensors are on the CPU, where there is nothing to copy.
NOTHING_ON_FAKES = ("new", "cpu", "to", "copy", "copy of a number", "number in where", "number on the host")


def cases(names) -> list:
    return [(on_meta, name) for name in names] + [
        (FakeTensorMode, name) for name in names if name not in NOTHING_ON_FAKES
    ]


@pytest.mark.parametrize(("where", "name"), cases(sorted(REFUSED)))
def test_what_a_capture_refuses_is_noticed(where, name):
    with where():
        x = torch.ones(4)
        with pytest.raises(NotCapturable), CaptureCheck(x):
            REFUSED[name](x)


@pytest.mark.parametrize(("where", "name"), cases(sorted(ALLOWED)))
def test_nothing_else_is(where, name):
    with where():
        x = torch.ones(4)
        with CaptureCheck(x) as check:
            result = ALLOWED[name](x)
        check.require(result)


def test_a_result_that_no_operator_made_is_noticed():
    with on_meta():
        x = torch.ones(4)
        with CaptureCheck(x) as check:
            result = x.new_tensor(0.5)
        with pytest.raises(NotCapturable):
            check.require([x, result])


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
        with CaptureCheck(body, head, x, y, delta_pre, options) as check, context:
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
