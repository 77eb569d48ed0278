"""FLOP formulas of the operators against those of torch on the same computation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import sgr_bench.flops  # noqa: F401  (registers the formulas)
import torch
from sgr_bench import reference
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sgr_kernels as sk

B, N, M, K = 8, 48, 40, 4


class NoModules(contextlib.nullcontext):
    """In the place of the module tracker of FlopCounterMode, whose hooks cannot bear torch.autograd.grad for a leaf."""

    parents = {"Global"}


def flops(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()
    with counter:
        run()
    return counter.get_total_flops()


class ReLUAfter(nn.Module):
    """The plain layers of torch with the parameters of one of ours."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.layer.__class__ = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d

    def forward(self, x):
        return self.layer(x).relu()


def linear():
    return sk.LinearReLU(N, M), torch.randn(B, N)


def conv():
    """Without groups: torch counts the weight gradient of a grouped convolution as if it were a full one."""
    return sk.Conv2dReLU(N, M, 3, stride=2, padding=1), torch.randn(B, N, 9, 7)


@pytest.mark.parametrize("make", [linear, conv])
def test_algorithm_1_counts_as_with_plain_layers(make):
    layer, x = make()
    head = sk.CrossEntropyHead(nn.Linear(M, K))
    y, delta = torch.randint(K, (B,)), torch.randn_like(x)

    def count(body):
        return flops(lambda: reference.algorithm1_step(body, head, x, y, delta, weight=1.0))

    def forward_and_backward(body):
        return flops(lambda: head(body(x.clone().requires_grad_()), y).backward())

    plain = ReLUAfter(layer)
    assert forward_and_backward(layer) == forward_and_backward(plain) > 0
    assert count(layer) == count(plain) > forward_and_backward(plain)


@pytest.mark.parametrize("make", [linear, conv])
@pytest.mark.parametrize(("curvature", "products"), [("none", 3), ("exact", 5)])
def test_fused_engine_needs_three_or_five_products(make, curvature, products):
    """6 B m n for Eq. 35 and 10 B m n for the exact gradient; the head's share is counted apart."""
    layer, x = make()
    one = flops(lambda: layer(x))
    head = sk.CrossEntropyHead(sk.ETFClassifier(K, M))
    y, delta = torch.randint(K, (B,)), torch.randn_like(x)
    options = {"weight": 1.0, "engine": "fused", "curvature": curvature}
    total = flops(lambda: sk.local_step(layer, head, x, y, delta, **options))
    of_head = (2 if curvature == "none" else 4) * 2 * B * M * K
    assert total == products * one + of_head


def test_algorithm_1_with_backward_needs_six_products():
    layer, x = linear()
    head = sk.CrossEntropyHead(sk.ETFClassifier(K, M))
    y, delta = torch.randint(K, (B,)), torch.randn_like(x)
    total = flops(lambda: reference.algorithm1_step(ReLUAfter(layer), head, x, y, delta, weight=1.0))
    assert round(total / (2 * B * M * N)) == 6
