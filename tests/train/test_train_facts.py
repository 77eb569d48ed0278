"""What the table of methods says, against what their steps do."""

from __future__ import annotations

import importlib

import pytest
import torch
from sgr_train import methods, networks
from torch import nn

import sgr_kernels as sk

dni = importlib.import_module("sgr_train.methods.dni")  # the file, not its entry

SHAPE = (1, 8, 8)
FACTS = {name: methods.REGISTRY.find(name).facts for name in methods.names()}


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(16, *SHAPE, dtype=torch.float64), torch.randint(0, 10, (16,))


def prepared(name, batch, modules=None):
    """A chain of four blocks, and the method; whole where it trains the network so."""
    torch.manual_seed(0)
    net = networks.plainnet(num_classes=10, image_shape=SHAPE, depth=4, width=8, norm="none", head="linear",
                            modules=modules).double()  # fmt: skip
    net = net.whole() if methods.is_whole(name) else net
    method = methods.REGISTRY.make(name)
    methods.prepare(method, net, batch[0])
    for generator in generators(net):
        nn.init.normal_(generator.layers[-1].weight)  # 0 at the start, where nothing depends on anything
    return net, method


def generators(net):
    return [part for part in net.modules() if isinstance(part, dni.Generator)]


def step(net, method, batch):
    """The same whenever it is called, for the same weights."""
    net.zero_grad()
    torch.manual_seed(2)
    for generator in generators(net):
        generator.size.fill_(0.1)
    for weight in (part for part in net.modules() if isinstance(part, sk.RelativeWeight)):
        weight.norms.zero_()
    method.step(net, *batch)


def test_every_method_says_what_it_is():
    """As Table 1 of the paper has it, where it has it."""
    table_1 = {
        "bp": ("no", "no", "no"),
        "fa": ("yes", "no", "no"),
        "dfa": ("yes", "partly", "yes"),
        "pepita": ("yes", "partly", "yes"),
        "drtp": ("yes", "yes", "yes"),
        "sgr": ("with --bp-free", "yes", "with --bp-free"),
    }
    for name, row in table_1.items():
        assert FACTS[name][:3] == row, name
    assert all(all(facts) for facts in FACTS.values())


def early_gradients(net, method, batch):
    """Those of the first two blocks and of what stands on them; what comes later has none of its own here."""
    step(net, method, batch)
    blocks = list(net.blocks())[:2]
    others = [part for module in list(net)[:2] if len(net) > 1 for part in (module.head, module.aux) if part]
    return [p.grad.clone() for part in (*blocks, *others) for p in part.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", methods.names())
def test_update_unlocking(name, batch):
    """yes: the gradients of early modules are the same whatever the weights of later ones."""
    net, method = prepared(name, batch)
    before = early_gradients(net, method, batch)
    with torch.no_grad():
        later = [*list(net.blocks())[2:], *(part for module in list(net)[2:] for part in (module.head, module.aux))]
        for part in (*later, net[-1].head):
            for parameter in part.parameters() if part else ():
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    after = early_gradients(net, method, batch)
    same = all(a.equal(b) for a, b in zip(before, after, strict=True))
    assert len(before) > 1 and same == (FACTS[name].update_unlocking == "yes")


def test_a_body_of_dni_is_unlocked(batch):
    """Its generator alone waits for the next module."""
    net, method = prepared("dni", batch)
    gradients = []
    for _ in range(2):
        step(net, method, batch)
        gradients.append([p.grad for p in net[1].body.parameters()])
        for parameter in (*net[2].parameters(), *net[3].parameters()):
            parameter.data.mul_(2)
    assert all(a.equal(b) and a.any() for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", methods.names())
def test_bp_free(name, batch):
    """No block gets an input that another block has a graph of, in modules of two; nor does the last classifier."""
    net, method = prepared(name, batch, modules=2)
    seen = []
    blocks = [*net.blocks(), net[-1].head.classifier]
    parts = [part for block in blocks for part in (block.children() if FACTS[name].passes == "2 forward" else [block])]
    for part in [*parts, net[-1].head.classifier]:
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0].grad_fn is not None))
    method.step(net, *batch)
    assert len(seen) >= 2 and any(seen) == (FACTS[name].bp_free != "yes")


@pytest.mark.parametrize("name", methods.names())
def test_passes(name, batch):
    """As many forward passes through the first layer as the table says."""
    net, method = prepared(name, batch)
    if name == "sgr":
        method = methods.SGR(engine="autograd")
    calls = []
    next(net.blocks())[0].register_forward_hook(lambda *_: calls.append(1))
    method.step(net, *batch)
    assert len(calls) == int(FACTS[name].passes.split()[0])


def test_the_table_is_a_command(sgr_train, tmp_path, monkeypatch):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from sgr_train.methods import register\n\n\n@register('unheard_of')\nclass Mine:\n"
        "    '''Nothing is known of it.'''\n\n    def step(self, network, x, y, update=None):\n        return []\n"
    )
    monkeypatch.setattr(methods.REGISTRY, "_entries", {name: methods.REGISTRY.find(name) for name in methods.names()})
    status, text, errors = sgr_train("methods", "--plugin", plugin)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert (status, errors) == (0, "") and set(methods.names()) <= set(lines)
    assert lines["unheard_of"].split()[1:] == ["?"] * 6
    assert all(column in lines["method"] for column in ("transport free", "update unlocking", "BP-free"))
    for name, facts in FACTS.items():
        assert all(value in lines[name] for value in facts)
    assert sgr_train("methods", "sgr")[0] == 2
