"""RelativeWeight: the weighted SGR gradient has a given norm, whatever computes it and however it is scaled."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import sgr_kernels as sk

CLASSES = 5
ENGINES = {
    "autograd": {"engine": "autograd"},
    "fused": {"engine": "fused"},
    "fused, none": {"engine": "fused", "curvature": "none"},
    "directional": {"engine": "directional"},
    "directional, central": {"engine": "directional", "order": 2},
}
engines = pytest.mark.parametrize("engine", ENGINES)


def layers(dtype=torch.float64):
    """Body and head; the fused engine takes both."""
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    return body.to(dtype), sk.CrossEntropyHead(nn.Linear(8, CLASSES)).to(dtype)


def one_layer():
    body = nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU()).double()
    return body, sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, 8)).double()


def tied():
    """The head reads a weight of the body."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(75, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()).double()
    head = sk.CrossEntropyHead(nn.Linear(8, 8)).double()
    head.classifier.weight = body[3].weight
    return body, head


def batches(dtype=torch.float64, count=3):
    """The second is a hundredth as large as the others, so that the norms of its gradients are others."""
    for scale in (1.0, 0.01, 1.0)[:count]:
        x = scale * torch.randn(6, 3, 5, 5, dtype=dtype)
        yield x, torch.randint(CLASSES, (6,)), torch.randn_like(x)


def gradients(parts, x: Tensor, y: Tensor, delta_pre: Tensor | None, **options) -> tuple[Tensor, Tensor]:
    """Of one step from 0: those of the body and those of all parameters, in a row each."""
    body, head = parts
    every = dict.fromkeys([*body.parameters(), *head.parameters()])
    for parameter in every:
        parameter.grad = None
    sk.local_step(body, head, x, y, delta_pre, **options)
    of_body, of_all = (torch.cat([p.grad.flatten() for p in each]) for each in (body.parameters(), every))
    return of_body, of_all


@engines
@pytest.mark.parametrize("make", [layers, one_layer, tied])
def test_lambda_is_rho_times_the_ratio_of_averaged_norms(engine, make):
    """Against the gradients that two numbers for the weight give, over several steps."""
    parts, options = make(), ENGINES[engine]
    weight = sk.RelativeWeight(0.3, decay=0.6)
    assert weight.value == 0
    averages = torch.zeros(2, dtype=torch.float64)
    for batch in batches():
        local, all_local = gradients(parts, *batch, weight=0.0, **options)
        both, all_both = gradients(parts, *batch, weight=2.0, **options)
        norms = torch.stack([local.norm(), (both - local).norm() / 2.0])
        averages = 0.6 * averages + 0.4 * norms
        expected = 0.3 * averages[0] / averages[1]
        _, found = gradients(parts, *batch, weight=weight, **options)
        torch.testing.assert_close(weight.value, expected.float(), rtol=1e-5, atol=0)
        change = (all_both - all_local) / 2.0
        assert (found - all_local - expected * change).norm() <= 1e-5 * (expected * change).norm()


@engines
def test_without_averages_the_share_is_rho(engine):
    parts, weight = layers(), sk.RelativeWeight(0.2, decay=0.0)
    for batch in batches():
        local, _ = gradients(parts, *batch, weight=0.0, **ENGINES[engine])
        both, _ = gradients(parts, *batch, weight=weight, **ENGINES[engine])
        assert math.isclose((both - local).norm(), 0.2 * local.norm(), rel_tol=1e-6)


@engines
@pytest.mark.parametrize("options", [{"reduction": "batchmean"}, {"reduction": "sum"}, {"grad_scale": 64.0}])
def test_no_scale_matters(engine, options):
    [batch] = batches(count=1)
    parts = layers()
    _, found = gradients(parts, *batch, weight=sk.RelativeWeight(0.2), **ENGINES[engine], **options)
    _, expected = gradients(parts, *batch, weight=sk.RelativeWeight(0.2), **ENGINES[engine])
    scale = options.get("grad_scale", 1.0)
    torch.testing.assert_close(found, scale * expected, rtol=1e-6, atol=1e-6 * float(scale * expected.norm()))


@engines
def test_a_rho_of_0_leaves_the_local_gradient(engine):
    [batch] = batches(count=1)
    parts = layers()
    _, found = gradients(parts, *batch, weight=sk.RelativeWeight(0.0), **ENGINES[engine])
    _, expected = gradients(parts, *batch, weight=0.0, **ENGINES[engine])
    torch.testing.assert_close(found, expected)


@engines
def test_without_a_target_nothing_is_averaged(engine):
    [(x, y, _)] = batches(count=1)
    weight = sk.RelativeWeight(0.2)
    gradients(layers(), x, y, None, weight=weight, engine=ENGINES[engine]["engine"])
    assert weight.norms.eq(0).all()


@engines
@pytest.mark.parametrize("bad", ["zero target", "nan target"])
def test_steps_without_two_norms_are_left_out(engine, bad):
    """And a NaN still shows in the gradients."""
    (x, y, delta_pre), other = batches(count=2)
    parts, weight = layers(), sk.RelativeWeight(0.2)
    gradients(parts, x, y, delta_pre, weight=weight, **ENGINES[engine])
    before = weight.norms.clone()
    x, y, delta_pre = other
    delta_pre = torch.zeros_like(x) if bad == "zero target" else torch.full_like(x, math.nan)
    _, found = gradients(parts, x, y, delta_pre, weight=weight, **ENGINES[engine])
    assert weight.norms.equal(before) and before.gt(0).all()
    assert found.isfinite().all() == (bad == "zero target")


@pytest.mark.parametrize("norms", [(math.inf, 1.0), (1.0, math.inf), (math.nan, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_norms_that_are_none_are_left_out(norms):
    weight = sk.RelativeWeight(0.2)
    before = weight.update([torch.tensor([3.0, 4.0])], [torch.tensor([2.0])])
    after = weight.update(*([torch.tensor([norm])] for norm in norms))
    assert before == after == weight.value == pytest.approx(0.5)


@pytest.mark.parametrize("engine", ["autograd", "directional"])
def test_bodies_without_parameters_have_no_sgr_gradient(engine):
    [batch] = batches(count=1)
    weight = sk.RelativeWeight(0.2)
    body, head = nn.Tanh(), sk.CrossEntropyHead(nn.Linear(3, CLASSES)).double()
    sk.local_step(body, head, *batch, weight=weight, engine=engine)
    found = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    sk.local_step(body, head, *batch[:2], None, weight=0.0, engine=engine)
    for ours, theirs in zip(found, head.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad)
    assert weight.value == 0


def test_frozen_parameters_do_not_count():
    [batch] = batches(count=1)
    values = []
    for engine in ENGINES:
        torch.manual_seed(1)
        body, head = layers()
        body[0].requires_grad_(requires_grad=False)
        weight = sk.RelativeWeight(0.2)
        sk.local_step(body, head, *batch, weight=weight, **ENGINES[engine])
        values.append(float(weight.value))
        assert body[0].weight.grad is None
    assert values[0] == pytest.approx(values[1], rel=1e-6) == pytest.approx(values[3], rel=1e-6)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_gradients_are_not(engine, dtype):
    """The gradients fit into float16, their norm does not."""
    [(x, y, delta_pre)] = batches(torch.float32, count=1)
    weights = {}
    for kind in (torch.float32, dtype):
        torch.manual_seed(1)
        parts, weights[kind] = layers(kind), sk.RelativeWeight(0.2)
        scale = 2.0**18 if dtype == torch.float16 else 1.0
        sk.local_step(*parts, x.to(kind), y, delta_pre.to(kind), weight=weights[kind], engine=engine, grad_scale=scale)
    torch.testing.assert_close(weights[dtype].value, weights[torch.float32].value, rtol=0.1, atol=0)
    if dtype == torch.float16:
        assert weights[dtype].norms[0] / 0.1 > torch.finfo(dtype).max


class WithEmbedding(nn.Module):
    """One row of a table counts twice, which is two entries of a sparse gradient."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.table = nn.Linear(8, 8), nn.Embedding(4, 8, sparse=sparse)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x) * self.table(torch.tensor([1, 2, 1])).sum(0))


@pytest.mark.parametrize("engine", ["autograd", "directional"])
def test_sparse_gradients_count_as_dense_ones(engine):
    x, y, delta_pre = torch.randn(6, 8), torch.randint(8, (6,)), torch.randn(6, 8)
    norms = []
    for sparse in (False, True):
        body, weight = WithEmbedding(sparse), sk.RelativeWeight(0.1)
        sk.local_step(body, nn.functional.cross_entropy, x, y, delta_pre, weight=weight, engine=engine)
        assert body.table.weight.grad.is_sparse == sparse
        norms.append(weight.norms)
    torch.testing.assert_close(*norms)


def test_averages_are_state():
    (first, second), parts = batches(count=2), layers()
    weight = sk.RelativeWeight(0.2)
    gradients(parts, *first, weight=weight, engine="fused")
    again = sk.RelativeWeight(0.2)
    again.load_state_dict(weight.state_dict())
    assert again.value == weight.value > 0
    for each in (weight, again, copy.deepcopy(weight)):
        gradients(parts, *second, weight=each, engine="fused")
    assert again.norms.equal(weight.norms) and not list(weight.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-0.1,), ValueError, "rho must be >= 0, got -0.1"),
        ((math.nan,), ValueError, "rho must be >= 0, got nan"),
        (("much",), TypeError, "rho must be a number >= 0, got str"),
        ((0.1, -0.5), ValueError, "decay must be >= 0, got -0.5"),
        ((0.1, 1.0), ValueError, "decay must be below 1, got 1.0"),
    ],
)
def test_bad_numbers_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        sk.RelativeWeight(*arguments)


def test_averages_on_another_device_are_refused():
    [batch] = batches(count=1)
    with pytest.raises(ValueError, match=r"weight\.norms must be on the device of x cpu, got meta"):
        sk.local_step(*layers(), *batch, weight=sk.RelativeWeight(0.1).to("meta"))
