"""Methods that do not do what their class says get no number."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sgr_bench import claims, cli, ways, zoo
from sgr_bench.checks import WrongResult
from sgr_train import methods
from sgr_train.methods.facts import Facts


def claimed(way: ways.Way | str, name: str = "plainnet4", modules: int = 4) -> None:
    torch.manual_seed(0)
    network, (x, y) = zoo.create(name, modules), zoo.inputs(name, 4)
    way = ways.ways()[way] if isinstance(way, str) else way
    claims.require_claims(ways.Step(way, network, x), network, x, y)


@pytest.mark.parametrize("name", ways.ways())
def test_every_method_does_what_it_says(name):
    claimed(name)


@pytest.mark.parametrize("name", ["infopro", "greedy", "dni", "drtp", "reforward"])
def test_with_normalisation_too(name):
    claimed(name, "resnet14", 3)


def test_the_step_stays_as_it_is():
    torch.manual_seed(0)
    network, (x, y) = zoo.create("resnet14", 3), zoo.inputs("resnet14", 4)
    step = ways.Step(ways.ways()["dni"], network, x)
    before = {name: value.clone() for name, value in step.network.state_dict().items()}
    claims.require_claims(step, network, x, y)
    assert all(value.equal(before[name]) for name, value in step.network.state_dict().items())
    assert all(parameter.grad is None for parameter in step.network.parameters())


class Mine:
    """What every module does of its own, with one thing broken in the subclasses."""

    facts = Facts("no", "yes", "no", "1 forward, 1 backward by module", "local heads", "one module")

    def step(self, network, x, y, update=methods.no_update):
        losses = []
        for k, module in enumerate(network):
            x = self.handed_on(module.body(x))
            losses.append(self.loss(module, x, y))
            losses[-1].backward(retain_graph=True)
            self.after(network, k, update)
        return [loss.detach() for loss in losses]

    def handed_on(self, x):
        return x

    def loss(self, module, x, y):
        return module.head(x, y)

    def after(self, network, k, update):
        update(k)


class Isolated(Mine):
    def step(self, network, x, y, update=methods.no_update):
        losses = []
        for k, module in enumerate(network):
            output = module.body(x)
            losses.append(self.loss(module, output, y))
            losses[-1].backward()
            self.after(network, k, update)
            x = output.detach()
        return [loss.detach() for loss in losses]


class Early(Mine):
    """Gradients of modules are said to be complete, and later losses add to them."""


class Late(Mine):
    """A later loss reaches earlier modules, which are said to be complete at the end, as is right; but not unlocked."""

    def after(self, network, k, update):
        if k == len(network) - 1:
            for each in range(len(network)):
                update(each)


class Forgets(Isolated):
    """No gradient for a bias."""

    def after(self, network, k, update):
        network[1].body[0][0].bias.grad = None
        update(k)


class Silent(Isolated):
    """Never says that a module is complete."""

    def after(self, network, k, update):
        pass


class Random(Isolated):
    """Draws what no seed sets."""

    generator = torch.Generator()

    def loss(self, module, x, y):
        return module.head(x, y) * (1 + torch.rand((), generator=Random.generator))


class NotFinite(Isolated):
    def loss(self, module, x, y):
        return module.head(x, y) / 0


class InfiniteGradient(Isolated):
    def after(self, network, k, update):
        network[k].body[0][0].weight.grad[0] = torch.nan
        update(k)


class Graphs(Isolated):
    """BP-free, it says, with two blocks in a module."""

    facts = Mine.facts._replace(bp_free="yes")


BROKEN = {
    Early: "changes after its module was said to be complete",
    Late: "what modules before 2 get when later ones change",
    Forgets: "it gives 1.body.0.0.bias and 0 other parameters no gradient, and BP does",
    Silent: "changes after its module was said to be complete",
    Random: "a second step from the same seed is wrong",
    NotFinite: "its losses are not finite numbers",
    InfiniteGradient: "its gradient of 0.body.0.0.weight is not finite",
    Graphs: "a graph leads from block to block, into ConvBlock, and it is BP-free",
}


@pytest.fixture
def registered(monkeypatch):
    def register(kind):
        monkeypatch.setitem(methods.REGISTRY._entries, "mine", kind)
        return ways.Way("mine")

    return register


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_method_is_refused(kind, registered):
    modules = 2 if kind is Graphs else 4
    claimed(registered(Isolated), modules=modules)
    with pytest.raises(WrongResult, match=BROKEN[kind]):
        claimed(registered(kind), modules=modules)


@pytest.mark.parametrize("part", ["step", "memory"])
def test_it_gets_no_number(part, registered, tmp_path, capsys):
    registered(Late)
    options = ["--networks", "plainnet4", "--batch", "2", "--modules", "2", "--methods", "BP", "mine"]
    options += ["--budget", "0.1"] if part == "step" else []
    assert cli.main([part, *options, "--out", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "mine: what modules before 2 get when later ones change is wrong" in output.err and "mine" not in output.out


def test_an_infopro_without_isolation_is_refused(monkeypatch):
    """One of the zoo, whose later modules reach into earlier ones."""
    infopro = methods.REGISTRY.find("infopro")

    def leaky(self, network, x, y, update=methods.no_update):
        losses = []
        for module in network:
            x = module.body(x)
            losses.append(F.cross_entropy(network[-1].head.logits(x) if module is network[-1] else x.mean((2, 3)), y))
        sum(losses).backward()
        for k in range(len(network)):
            update(k)
        return [loss.detach() for loss in losses]

    monkeypatch.setattr(infopro, "step", leaky)
    with pytest.raises(WrongResult, match="when later ones change is wrong"):
        claimed("infopro")
