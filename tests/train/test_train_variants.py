"""The plug-in of bench/training/variants.py: SGR towards what the updated module before gives."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sgr_train import methods, networks, plugins, train
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.methods.sgr import RHO
from sgr_train.settings import make

VARIANTS = Path(__file__).parents[2] / "bench" / "training" / "variants.py"
NAME = "sgr_after"
SHAPE, LR = (1, 8, 8), 0.5
NETWORKS = {"bp_free": {"norm": "none", "head": "etf"}, "general": {"norm": "batch", "head": "conv"}}
ENGINES = {"bp_free": "fused", "general": "autograd"}


@pytest.fixture(scope="module")
def plugin():
    """The method, while the tests of this file run."""
    with pytest.MonkeyPatch.context() as patch:
        registry = methods.REGISTRY
        patch.setattr(registry, "_entries", {name: registry.find(name) for name in registry.names()})
        plugins.load([VARIANTS])
        yield registry.find(NAME)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(16, *SHAPE, dtype=torch.float64), torch.randint(0, 10, (16,))


def network(kind):
    torch.manual_seed(0)
    options = {"depth": 4, "width": 12, **NETWORKS[kind]}
    return networks.plainnet(num_classes=10, image_shape=SHAPE, **options).double()


def trained(method, kind, batch, steps=2):
    net = network(kind)
    methods.prepare(method, net, batch[0])
    optimizers = [torch.optim.SGD(module.parameters(), LR) for module in net]

    def update(k):
        optimizers[k].step()
        optimizers[k].zero_grad()

    for _ in range(steps):
        losses = method.step(net, *batch, update)
    return net, losses


def written_out(kind, batch, weight, steps=2):
    """In plain torch: Algorithm 1 with another pass through every module after its update."""
    net = network(kind)
    for _ in range(steps):
        (x, y), delta_pre = batch, None
        for module in net:
            x = x.detach().requires_grad_()
            loss = F.cross_entropy(module.head.logits(module.body(x)), y)
            if delta_pre is not None:
                [delta_now] = torch.autograd.grad(loss, x, create_graph=True)
                loss = loss + weight * (unit(delta_now) - unit(delta_pre)).square().sum(1).mean()
            module.zero_grad()
            loss.backward()
            if parameters := list(module.parameters()):
                torch.optim.SGD(parameters, LR).step()
            twin = copy.deepcopy(module)  # whose statistics may move
            output = twin.body(x.detach()).detach().requires_grad_()
            [delta_pre] = torch.autograd.grad(F.cross_entropy(twin.head.logits(output), y), output)
            x = output
    return net


def unit(delta):
    rows = delta.flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)


def assert_same_state(one, other):
    states = ({k: v for k, v in net.state_dict().items() if not k.endswith("_extra_state")} for net in (one, other))
    for (name, a), b in zip(*(state.items() for state in states), strict=True):
        torch.testing.assert_close(a, b[1], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", NETWORKS)
def test_two_passes_written_out(plugin, batch, kind):
    """Weights and statistics of BatchNorm, which move once a step."""
    net, losses = trained(plugin(weight=0.3, engine=ENGINES[kind]), kind, batch)
    assert len(losses) == len(net) == 4 and not any(loss.requires_grad for loss in losses)
    assert_same_state(net, written_out(kind, batch, 0.3))


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_weight_it_is_reforward(plugin, batch, kind):
    engine = ENGINES[kind]
    net, _ = trained(plugin(weight=0.0, engine=engine), kind, batch)
    assert_same_state(net, trained(methods.Reforward(engine=engine), kind, batch)[0])


@pytest.mark.parametrize("kind", NETWORKS)
def test_before_and_after_the_update_are_two_readings(plugin, batch, kind):
    """At the second module already, which Algorithm 1 gives another input and another delta_pre."""
    options = {"weight": 0.3, "engine": ENGINES[kind]}
    after, before = (trained(make_method(**options), kind, batch, 1)[0] for make_method in (plugin, methods.SGR))
    first, second = ([net[k].body[0][0].weight for net in (after, before)] for k in (0, 1))
    torch.testing.assert_close(*first)
    assert not torch.allclose(*second, rtol=1e-4)


def test_the_gradient_scale_is_no_part_of_delta_pre(plugin, batch):
    """Else the unnormalised residual would compare gradients of two scales."""
    weights = []
    for scale in (1.0, 64.0):
        net, method = network("bp_free"), plugin(weight=30.0, normalize=False, engine="fused")
        method.grad_scale = scale
        method.step(net, *batch)
        weights.append([p.grad / scale for p in net.parameters()])
    torch.testing.assert_close(*weights)


def test_a_run_without_back_propagation_builds_no_graph(plugin, tiny):
    def pack(tensor):
        raise AssertionError("a tensor was saved for a backward pass")

    settings = {"method": NAME, "bp_free": True, "plugin": (VARIANTS,), "lr": 0.02, "epochs": 2}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        run, _ = train.train(tiny(**settings))
    assert run.history[-1]["loss"][-1] < run.history[0]["loss"][-1]
    with pytest.raises(UsageError, match="--engine must be fused with --bp-free"):
        make(RunConfig, engine="autograd", **settings)


def test_the_command_line_finds_it(plugin, sgr_train, tmp_path):
    words = ("--plugin", VARIANTS, "--method", NAME, "--weight", 0.2, "--bp-free", "--depth", 4, "--flatten")
    few = ("--epochs", 1, "--train-subset", 64, "--lr", 0.02, "--out", tmp_path / "run")
    assert sgr_train("run", *words, *few)[::2] == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    own = {"rho": RHO, "weight": 0.2, "reduction": "batchmean", "normalize": True, "engine": "fused"}
    assert config["options"]["method"] == {NAME: own} and config["options"]["head"] == {"etf": {"flatten": True}}
