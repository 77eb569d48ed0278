"""The fused engine on the Triton backend; runs as sgr_loss_cases.py does."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import nn

import sgr_kernels as sk
from sgr_kernels.operators import registered

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
B, N, M, K = 33, 70, 90, 5


class Problem:
    """One linear ReLU block with an ETF head."""

    def __init__(self) -> None:
        self.body = nn.Sequential(nn.Linear(N, M), nn.ReLU()).to(DEVICE)
        self.head = sk.CrossEntropyHead(sk.ETFClassifier(K, M)).to(DEVICE)
        self.x, self.delta = torch.randn(2, B, N, device=DEVICE).unbind(0)
        self.y = torch.randint(K, (B,), device=DEVICE)

    def step(self, backend: str, **options) -> tuple[sk.LocalStep, list[torch.Tensor]]:
        body = copy.deepcopy(self.body)
        options = {"weight": 3.0, "reduction": "batchmean", "engine": "fused", "curvature": "none", **options}
        with sk.backend(backend):
            step = sk.local_step(body, self.head, self.x, self.y, self.delta, **options)
        return step, [p.grad for p in body.parameters()]


@pytest.fixture
def kernels(monkeypatch):
    """Names of the Triton kernels that ran."""
    seen = []
    for operator in registered():
        if operator.composed is None:
            kernel = operator.on("triton")

            def call(*args, name=operator.name, kernel=kernel):
                seen.append(name)
                return kernel(*args)

            monkeypatch.setitem(operator._calls, "sgr_triton", call)
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": False},
        {"reduction": "mean"},
        {"curvature": "exact"},
        {"grad_scale": 4.0},
        {"relative_floor": 0.9},
    ],
    ids=str,
)
def test_step_is_that_of_the_reference(kernels, options):
    """By the kernels between the products; the products are those of the library, which are faster."""
    problem = Problem()
    step, gradients = problem.step("triton", **options)
    expected, expected_gradients = problem.step("reference", **options)
    assert "relu_backward" in kernels
    torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-7)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_frozen_weight_gets_no_gradient(kernels):
    problem = Problem()
    problem.body[0].weight.requires_grad_(False)
    _, (weight, bias) = problem.step("triton")
    assert weight is None and bias.any() and kernels
