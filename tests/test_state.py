"""What a step leaves behind is what one ordinary pass leaves behind, wherever body and head keep it."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import weakref
from collections import deque

import pytest
import torch
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.engines import passes, wrappers


class Features(nn.Module):
    """A body and a head in one, with a BatchNorm; ``change`` is called in every pass."""

    def __init__(self, change=lambda self, x: None) -> None:
        super().__init__()
        self.linear, self.norm, self.classifier = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.change = change

    def features(self, x: Tensor) -> Tensor:
        self.change(self, x)
        return torch.tanh(self.norm(self.linear(x)))

    forward = features

    def loss(self, features: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.classifier(features), y)


def data() -> tuple[Tensor, Tensor, Tensor]:
    x, delta_pre = torch.randn(2, 8, 6).unbind(0)
    return x, torch.randint(3, (8,)), delta_pre


def steps(body, head, engine: str = "directional", count: int = 2, **options) -> None:
    torch.manual_seed(1)
    for _ in range(count):
        x, y, delta_pre = data()
        sk.local_step(body, head, x, y, delta_pre, weight=5.0, engine=engine, **options)


# --- modules behind callables -----------------------------------------------------------------------------------------

GLOBAL = Features()


def through_a_global(x: Tensor) -> Tensor:
    return through_another_function(x)


def through_another_function(x: Tensor) -> Tensor:
    return GLOBAL(x)


class Object:
    def __init__(self, model: nn.Module) -> None:
        self.models = {"one": [model]}

    def __call__(self, x: Tensor) -> Tensor:
        return self.models["one"][0](x)

    def method(self, x: Tensor) -> Tensor:
        return self(x)


class InAList(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.models = [model]

    def forward(self, x: Tensor) -> Tensor:
        return self.models[0](x)


def wrapped(model: nn.Module):
    @functools.wraps(model.forward)
    def call(*args):
        return model(*args)

    return call


CALLABLES = {
    "method": lambda model: model.features,
    "lambda": lambda model: lambda x: model(x),
    "a function in a function": lambda model: lambda x: (lambda z: model(z))(x),
    "default": lambda model: lambda x, model=model: model(x),
    "keyword default": lambda model: _with_keyword(model),
    "partial": lambda model: functools.partial(Features.features, model),
    "container": lambda model: (lambda models: lambda x: models[0]["one"](x))(deque([{"one": model}])),
    "callable object": Object,
    "method of an object": lambda model: Object(model).method,
    "object in a closure": lambda model: (lambda thing: lambda x: thing.method(x))(Object(model)),
    "plain list of a module": InAList,
    "decorated": wrapped,
    "compiled": lambda model: torch.compile(lambda x: model(x), backend="eager"),
}


def _with_keyword(model: nn.Module):
    def call(x, *, inner=model):
        return inner(x)

    return call


@pytest.mark.parametrize("kind", CALLABLES)
def test_modules_behind_any_callable(kind):
    model = Features()
    steps(CALLABLES[kind](model), model.loss)
    assert model.norm.num_batches_tracked == 2


def test_modules_that_a_function_names():
    GLOBAL.norm.reset_running_stats()
    steps(through_a_global, GLOBAL.loss)
    assert GLOBAL.norm.num_batches_tracked == 2


def test_gradients_are_those_of_the_module_itself():
    model = Features()
    twin = copy.deepcopy(model)
    steps(lambda x: model(x), model.loss)
    steps(twin, twin.loss)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


# --- what a pass changes ----------------------------------------------------------------------------------------------


def counted(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    self.linear.calls = getattr(self.linear, "calls", 0) + 1


def averaged(self, x):
    self.running = 0.9 * getattr(self, "running", 0.0) + 0.1 * x.detach().mean(0)


def collected(self, x):
    vars(self).setdefault("history", []).append(x.detach().mean())
    vars(self).setdefault("last", deque(maxlen=3)).append(len(self.history))
    vars(self).setdefault("counts", {"sizes": set()})["sizes"].add(len(self.history))


def buffer_replaced(self, x):
    self.register_buffer("count", torch.zeros(())) if not hasattr(self, "count") else None
    self.count = self.count + x.detach().mean()


def buffer_made(self, x):
    if not hasattr(self, "lazy"):
        self.register_buffer("lazy", torch.zeros(6))
    self.lazy += x.detach().mean(0)


def scratch(self, x):
    vars(self).setdefault("space", torch.zeros(8, 6)).copy_(x.detach())


def written_now_and_then(self, x):
    """In the second step for the first time, when nothing is compared any more."""
    self.calls = getattr(self, "calls", 0) + 1
    self.running = getattr(self, "running", torch.zeros(6))
    if self.calls == 2:
        self.running += 1


CHANGES = [counted, averaged, collected, buffer_replaced, buffer_made, scratch, written_now_and_then]


def kept_by(model: Features) -> dict:
    own = {name: value for name, value in vars(model).items() if name not in vars(nn.Module())}
    own.pop("change")
    return {**model.state_dict(), **own, **{f"linear.{k}": v for k, v in vars(model.linear).items() if k == "calls"}}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_state_is_as_after_one_ordinary_pass(change):
    model = Features(change)
    model.linear.register_forward_hook(lambda *_: None)  # hooks set attributes of torch's own modules
    twin = copy.deepcopy(model)
    steps(model, model.loss, "directional")
    steps(twin, twin.loss, "autograd")
    mine, theirs = kept_by(model), kept_by(twin)
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(mine[name], expected, msg=name) if name != "counts" else None
        assert name != "counts" or mine[name] == expected


def test_variables_around_a_function_and_its_attributes():
    model, count = Features(), 0

    def head(features, y):
        nonlocal count
        count += 1
        head.calls += 1
        return model.loss(features, y)

    head.calls = 0
    steps(model, head)
    assert count == head.calls == 2


class Drifting(nn.Module):
    """Its output depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(6, 6), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.linear(x)) * (1 + 0.5 * self.calls)


def test_both_passes_start_from_the_same_state():
    body, head = Drifting().double(), nn.Linear(6, 3).double()
    twin_body, twin_head = copy.deepcopy(body), copy.deepcopy(head)
    x, delta_pre = torch.randn(2, 8, 6, dtype=torch.float64).unbind(0)
    for parts, options in (
        ((body, head), {"engine": "directional", "order": 2, "radius": 1e-3}),
        ((twin_body, twin_head), {}),
    ):
        for _ in range(2):
            loss = lambda f, y, head=parts[1]: head(f).square().mean()  # noqa: E731
            sk.local_step(parts[0], loss, x, None, delta_pre, weight=5.0, **options)
    torch.testing.assert_close(body.linear.weight.grad, twin_body.linear.weight.grad, rtol=1e-4, atol=1e-8)
    assert body.calls == twin_body.calls == 2


def written_in_place(self, x):
    self.running.mul_(0.9).add_(x.detach().mean(0))


def parameter_written(self, x):
    with torch.no_grad():
        self.frozen += 1


@pytest.mark.parametrize(("change", "name"), [(written_in_place, "running"), (parameter_written, r"shape \(6,\)")])
def test_state_written_in_place_outside_of_buffers_is_refused_by_name(change, name):
    model = Features(change)
    model.running, model.frozen = torch.zeros(6), nn.Parameter(torch.zeros(6), requires_grad=False)
    with pytest.raises(RuntimeError, match=f"in place what is no buffer .*{name}.*register_buffer") as error:
        steps(model, model.loss)
    assert "\n" not in str(error.value) and model.linear.weight.grad is None


def test_state_that_nothing_reaches_is_found_by_what_it_does():
    count, model = itertools.count(), Features()
    with pytest.raises(RuntimeError, match="not deterministic"):
        steps(lambda x: model(x) * (1 + next(count)), model.loss)


def test_parameters_must_be_there_before_the_first_step():
    model, made = Features(), []

    def body(x):
        made.append(nn.Parameter(torch.ones(6)))
        return model(x) * made[0]

    with pytest.raises(RuntimeError, match="same parameters: make them before the first step"):
        steps(body, model.loss)


@pytest.mark.parametrize(
    "buffer",
    [
        torch.ones(1, 1).expand(6, 6),
        torch.ones(6, 1).expand(6, 6),
        torch.ones(()).expand(6, 0),
        torch.eye(6).to_sparse(),
    ],
    ids=["one", "a column", "empty", "sparse"],
)
def test_buffers_in_any_layout(buffer):
    model = Features()
    model.register_buffer("mask", buffer)
    steps(model, model.loss)
    assert torch.equal(model.mask.to_dense(), buffer.to_dense())


# --- how often two passes are compared --------------------------------------------------------------------------------


def passes_of(model: Features, step) -> int:
    calls = []
    handle = model.linear.register_forward_hook(lambda *_: calls.append(None))
    step()
    handle.remove()
    return len(calls)


def test_bound_methods_are_compared_once():
    model = Features()
    counts = [passes_of(model, lambda: steps(model.features, model.loss, count=1)) for _ in range(3)]
    assert counts == [9, 2, 2]


def test_another_mode_is_compared_again():
    model, counts = Features(), []
    for training in (False, True, False, True):
        model.train(training)
        counts.append(passes_of(model, lambda: steps(model.features, model.loss, count=1)))
    assert counts == [9, 9, 2, 2]


def test_pairs_are_forgotten_with_their_modules():
    gc.collect()  # of other tests
    before = len(passes._VERIFIED), len(wrappers._WITHOUT)
    model = Features()
    steps(model.features, model.loss)
    steps(lambda x, model=model: model(x), model.loss)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None and (len(passes._VERIFIED), len(wrappers._WITHOUT)) == before


class Unhashable:
    """A head that is compared by value, as data classes are."""

    __hash__ = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, features: Tensor, y: Tensor) -> Tensor:
        return self.model.loss(features, y)


def test_heads_without_a_hash():
    model = Features()
    steps(model, Unhashable(model))
    assert model.norm.num_batches_tracked == 2


def test_callables_made_anew_are_compared_once():
    """As long as the code is the same, and the modules that it uses."""
    model, other = Features(), Features()

    def count(model: Features) -> int:
        body = functools.partial(lambda module, x: module(x), model)
        return passes_of(model, lambda: steps(body, lambda features, y: model.loss(features, y), count=1))

    assert [count(each) for each in (model, model, other, model, other)] == [9, 2, 9, 2, 2]
