"""Random networks: an engine gives the gradient of Algorithm 1, to first order, or refuses by name. No third way."""

from __future__ import annotations

import copy
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from autograd_functions import Reversal, Twice
from networks import Hooked
from torch import Tensor, nn

import sgr_kernels as sk

WIDTH, BATCH = 12, 10
MESSAGES = "engine=|register_buffer|torch.random|smooth|hook"  # what a refusal says, one of them at least


class Part(nn.Module):
    """A layer of its own and a function of what it gives."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(WIDTH, WIDTH), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Counting(nn.Module):
    """State in a number, of which the result does not depend."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.sin(x)


class Drifting(nn.Module):
    """State in a number, of which the result depends."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 + 0.3 * self.calls)


class Averaging(nn.Module):
    """A running average in a plain tensor, or in a buffer that is replaced, or one that the first call makes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attribute":
            self.average = torch.zeros(WIDTH, dtype=torch.float64)
        elif kind == "buffer":
            self.register_buffer("average", torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "average"):
            self.register_buffer("average", torch.zeros(WIDTH, dtype=x.dtype))
        self.average = 0.7 * self.average + 0.3 * x.detach().mean(0)
        return torch.tanh(x - self.average)


class Forgotten(Reversal):
    """Not declared."""


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * (x > 0).double() + torch.tanh(x)


@torch.no_grad()
def size_of(x: Tensor) -> Tensor:
    return x.abs().mean()


sk.smooth(Twice), sk.smooth(Reversal)
SHARED = nn.Linear(WIDTH, WIDTH).double()

PARTS = {
    "relu": lambda: Part(F.relu),
    "relu in place": lambda: Part(nn.ReLU(inplace=True)),
    "method": lambda: Part(Tensor.relu),
    "clamp": lambda: Part(lambda x: x.clamp(-0.5, 0.5)),
    "comparison": lambda: Part(lambda x: torch.where(x > 0, x, x.square())),
    "maximum": lambda: Part(lambda x: torch.maximum(x, x.flip(1))),
    "smooth": lambda: Part(nn.GELU()),
    "norm": lambda: Part(nn.LayerNorm(WIDTH)),
    "constant": lambda: Part(lambda x: x / (1 + size_of(x))),
    "dropout": lambda: Part(nn.Dropout(0.4)),
    "noise": lambda: Part(lambda x: x + 0.1 * torch.randn_like(x)),
    "Python's numbers": lambda: Part(lambda x: x * random.random()),
    "NumPy's numbers": lambda: Part(lambda x: x * float(np.random.rand())),
    "batch norm": lambda: Part(nn.BatchNorm1d(WIDTH)),
    "counting": lambda: Part(Counting()),
    "drifting": lambda: Part(Drifting()),
    "average": lambda: Part(Averaging("attribute")),
    "replaced buffer": lambda: Part(Averaging("buffer")),
    "late buffer": lambda: Part(Averaging("late")),
    "shared": lambda: Part(SHARED),
    "twice": lambda: Part(nn.Sequential(SHARED, nn.ReLU(), SHARED)),
    "declared": lambda: Part(sk.smooth(Twice)),
    "reversed": lambda: Part(sk.smooth(Reversal)),
    "forgotten": lambda: Part(Forgotten.apply),
    "scripted": lambda: Part(lambda x: scripted(x)),
    "scripted module": lambda: Part(torch.jit.script(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).double())),
    "hook that clips": lambda: Part(Hooked(lambda g: g.clamp(-0.01, 0.01))),
    "hook that looks": lambda: Part(Hooked(lambda g: None)),
}
HEADS = ["relu", "smooth", "batch norm", "dropout", "constant", "reversed", "scripted", "hook that clips", "average"]


class Head(nn.Module):
    def __init__(self, part: str) -> None:
        super().__init__()
        self.part, self.classifier = PARTS[part](), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(self.part(x)), y)


def state_of(module: nn.Module) -> dict[str, object]:
    plain = {
        f"{name}.{key}": value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if key in ("calls", "average")
    }
    return {**dict(module.named_buffers()), **plain}


def two_steps(engine: str, body: nn.Module, head: nn.Module, weight: float, **options) -> tuple[list[Tensor], dict]:
    """Gradients after two steps, so that what the first one leaves behind shows, and the state."""
    body, head = copy.deepcopy((body, head))
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    for _ in range(2):
        x, delta_pre = torch.randn(2, BATCH, WIDTH, dtype=torch.float64).unbind(0)
        y = torch.randint(4, (BATCH,))
        sk.local_step(body, head, x, y, delta_pre, weight=weight, engine=engine, **options)
    parameters = dict.fromkeys([*body.parameters(), *head.parameters()])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return gradients, {**state_of(body), **state_of(head)}


def is_right_or_refused(engine: str, body: nn.Module, head: nn.Module, **options) -> str:
    """ "right" or "refused"; anything else is an AssertionError."""
    try:
        result, state = two_steps(engine, body, head, 20.0, **options)
    except (ValueError, RuntimeError, TypeError) as error:
        assert re.search(MESSAGES, str(error)), f"an unclear refusal: {error}"
        assert "\n" not in str(error)
        return "refused"
    expected, expected_state = two_steps("autograd", body, head, 20.0)
    plain = two_steps("autograd", body, head, 0.0)[0]
    error, size = (
        sum(float((a - b).square().sum()) for a, b in zip(expected, other, strict=True)) for other in (result, plain)
    )
    assert error <= 1e-6 * size, f"the SGR part of the gradients is off by {(error / size) ** 0.5:.0e}"
    assert state.keys() == expected_state.keys()
    for key, value in expected_state.items():
        torch.testing.assert_close(state[key], value, msg=lambda text, key=key: f"{key}: {text}")
    return "right"


@pytest.mark.parametrize("name", PARTS)
def test_directional_engine_on_one_part(name):
    torch.manual_seed(0)
    body, head = PARTS[name]().double(), Head("smooth").double()
    answer = is_right_or_refused("directional", body, head, order=2, radius=1e-3)
    refused = ("reversed", "forgotten", "scripted", "scripted module", "hook that clips", "hook that looks")
    assert answer == ("refused" if name in refused else "right")


@pytest.mark.parametrize("seed", range(60))
def test_the_default_on_random_bodies(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    body = nn.Sequential(*(PARTS[name]() for name in draw.sample(list(PARTS), draw.randint(2, 4)))).double()
    assert sk.engines.automatic(body) == "directional"
    is_right_or_refused("auto", body, Head(draw.choice(HEADS)).double(), order=2, radius=1e-3)


@pytest.mark.parametrize("seed", range(40))
def test_the_default_on_random_chains_and_heads(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        layers.append(draw.choice([nn.Linear(WIDTH, WIDTH), SHARED, sk.LinearReLU(WIDTH, WIDTH)]))
        layers += draw.choice([[nn.ReLU()], [nn.ReLU(inplace=True)], []]) if type(layers[-1]) is nn.Linear else []
    body = nn.Sequential(*layers).double()
    assert sk.engines.automatic(body) == "fused"
    is_right_or_refused("auto", body, Head(draw.choice(HEADS)).double())


@pytest.mark.parametrize("name", HEADS)
def test_fused_engine_on_each_head(name):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).double()
    answer = is_right_or_refused("fused", body, Head(name).double())
    assert answer == ("refused" if name in ("reversed", "hook that clips") else "right")
