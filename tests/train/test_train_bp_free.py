"""BP-free training: analytic updates, no graph, the same numbers as Algorithm 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sgr_train import methods, networks, train
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.settings import make

import sgr_kernels as sk

WEIGHT = {"sgr": {"weight": 0.3}}
BP_FREE = {"bp_free": True, "lr": 0.02, **WEIGHT["sgr"]}


@pytest.mark.parametrize("flatten", [False, True], ids=["pooled", "flat"])
def test_no_graph_is_ever_built(tiny, monkeypatch, flatten):
    """Nothing that a step returns has a grad_fn, nothing is saved for a backward pass, in training and in measuring."""
    steps = []
    original = sk.local_step

    def spy(*args, **kwargs):
        steps.append(original(*args, **kwargs))
        return steps[-1]

    def pack(tensor):
        raise AssertionError("a tensor was saved for a backward pass")

    monkeypatch.setattr(sk, "local_step", spy)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        run, _ = train.train(tiny(epochs=1, flatten=flatten, **BP_FREE))
        with pytest.raises(AssertionError, match="saved"):  # the hook sees what it should
            train.train(tiny("with_graph", epochs=1, engine="autograd"))
    assert len(run.network) == 3 and steps
    assert all(t is None or t.grad_fn is None for step in steps for t in step)


@pytest.mark.parametrize("settings", [{"model": "plainnet"}, {"model": "mlp", "width": 24}], ids=lambda s: s["model"])
@pytest.mark.parametrize("method", ["layerwise", "sgr"])
def test_updates_are_those_of_algorithm_1(tiny, settings, method):
    settings = {**settings, "method": method, "lr": 0.02, "head": "etf", "epochs": 2, **WEIGHT.get(method, {})}
    run, _ = train.train(tiny(bp_free=True, **settings))
    settings |= {"engine": "autograd", **({"norm": "none"} if settings["model"] == "plainnet" else {})}
    published, _ = train.train(tiny("published", **settings))
    for mine, theirs in zip(run.network.parameters(), published.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(run.history, published.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["sgr"] == pytest.approx(theirs["sgr"], rel=1e-3)


def unit(delta):
    return delta / delta.norm(dim=1, keepdim=True)


READINGS = {  # of the SGR loss, for delta_now and delta_pre (B, n), as Algorithm 1 and Eq. 6 have it
    "mean": ({"reduction": "mean", "weight": 500.0}, lambda now, pre: F.mse_loss(unit(now), unit(pre))),
    "batchmean": ({"weight": 0.3}, lambda now, pre: (unit(now) - unit(pre)).square().sum(1).mean()),
    "sum": ({"reduction": "sum", "weight": 0.02}, lambda now, pre: (unit(now) - unit(pre)).square().sum()),
    "unnormalised": ({"normalize": False, "weight": 300.0}, lambda now, pre: (now - pre).square().sum(1).mean()),
    "unnormalised mean": (
        {"normalize": False, "reduction": "mean", "weight": 1e5},
        lambda now, pre: (now - pre).square().mean(),
    ),
}


@pytest.mark.parametrize("flatten", [False, True], ids=["pooled", "flat"])
@pytest.mark.parametrize("name", READINGS)
def test_readings_written_out(name, flatten):
    """Gradients of one step, module by module, in plain torch; the SGR loss is no small part of them."""
    options, sgr = READINGS[name]
    torch.manual_seed(0)
    network = networks.plainnet(num_classes=10, image_shape=(1, 8, 8), depth=3, width=12, norm="none", head="etf",
                                head_options={"flatten": flatten}).double()  # fmt: skip
    x, y, delta_pre = torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 10, None
    methods.SGR(engine="fused", **options).step(network, x, y)
    for module in network:
        output = module.body(x.requires_grad_())
        features = output.flatten(1) if flatten else output.mean((2, 3))
        loss = F.cross_entropy(features @ module.head.classifier.weight.T, y)
        delta_now, delta_out = torch.autograd.grad(loss, [x, output], create_graph=True)
        expected = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        if delta_pre is not None:
            loss_sgr = options["weight"] * sgr(delta_now.flatten(1), delta_pre.flatten(1))
            of_sgr = torch.autograd.grad(loss_sgr, list(module.parameters()), allow_unused=True)
            assert of_sgr[0].norm() > 0.01 * expected[0].norm()
            expected = [e if s is None else e + s for e, s in zip(expected, of_sgr, strict=True)]
        torch.testing.assert_close([p.grad for p in module.parameters()], list(expected))
        x, delta_pre = output.detach(), delta_out.detach()


def test_without_curvature_is_another_gradient(tiny):
    exact, _ = train.train(tiny(epochs=1, **BP_FREE))
    frozen, _ = train.train(tiny("frozen", epochs=1, curvature="none", **BP_FREE))
    assert exact.history[-1]["loss"] != frozen.history[-1]["loss"]


@pytest.mark.parametrize("method", ["layerwise", "sgr"])
def test_learns(tiny, method):
    settings = {"bp_free": True, "lr": 0.02, **WEIGHT.get(method, {})}
    run, data = train.train(tiny(method=method, epochs=8, train_subset=600, width=16, **settings))
    assert run.history[-1]["loss"][-1] < run.history[0]["loss"][-1]
    assert run.history[-1]["val_accuracy"][-1] > 0.5  # a guess is right for one in ten


def test_other_networks_are_refused(tiny):
    with pytest.raises(UsageError, match="module 1 of --model resnet14 is none"):
        train.setup(make(RunConfig, bp_free=True, model="resnet14"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head": "conv"}, "--head must be etf with --bp-free"),
        ({"norm": "batch"}, "--norm must be none with --bp-free"),
        ({"modules": 2}, "--modules must be left out with --bp-free"),
        ({"cuts": (2,)}, "--cuts must be left out with --bp-free"),
        ({"checkpoint_blocks": True}, "--checkpoint-blocks must be left out with --bp-free"),
        ({"engine": "autograd"}, "--engine must be fused with --bp-free"),
        ({"method": "bp"}, "--method must be greedy or layerwise or reforward or sgr with --bp-free"),
    ],
)
def test_what_does_not_go_with_it(settings, words):
    with pytest.raises(UsageError) as caught:
        make(RunConfig, bp_free=True, **settings)
    assert words in str(caught.value)
