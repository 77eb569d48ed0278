"""Synthetic gradients against their equations, in float64 and plain torch."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from sgr_train import methods, networks
from sgr_train.errors import UsageError
from sgr_train.networks.network import Features
from torch import nn

dni = importlib.import_module("sgr_train.methods.dni")  # the file, not its entry

SHAPE, CLASSES, BATCH = (1, 8, 8), 5, 6
SIZE = 0.02  # of the gradients before


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(BATCH, *SHAPE, dtype=torch.float64), torch.randint(0, CLASSES, (BATCH,))


def prepared(model="plainnet", awake=True):
    """A network of three modules; generators have no zeros any more, unless asked."""
    torch.manual_seed(0)
    net = networks.create(model, num_classes=CLASSES, image_shape=SHAPE, depth=3, width=8, head="linear").double()
    methods.prepare(methods.DNI(), net, torch.zeros(2, *SHAPE, dtype=torch.float64))
    for module in list(net)[:-1] if awake else ():
        nn.init.normal_(module.aux.layers[-1].weight)
        nn.init.normal_(module.aux.layers[-1].bias)
        module.aux.size.fill_(SIZE)
    return net


def generate(module, x, y):
    """M(x, y): the layers on features and labels."""
    label = F.one_hot(y, CLASSES).double()
    if x.dim() == 4:
        label = torch.stack([torch.stack([label] * x.shape[2], 2)] * x.shape[3], 3)
    return module.aux.layers(torch.cat([x, label], 1))


def assert_dni(batch, model="plainnet"):
    x, y = batch
    net, other = prepared(model), prepared(model)
    [loss] = methods.DNI().step(net, x, y)

    inputs, outputs = [], []
    for module in other:
        inputs.append((outputs[-1] if outputs else x).detach().requires_grad_())
        outputs.append(module.body(inputs[-1]))
    expected_loss = F.cross_entropy(other[-1].head.logits(outputs[-1]), y)
    foretold = [generate(module, outputs[k].detach(), y) for k, module in enumerate(list(other)[:-1])]
    objectives = [SIZE * (m.detach() * output).sum() for m, output in zip(foretold, outputs, strict=False)]
    objectives.append(expected_loss)  # its gradient for the output is the true one
    for k in range(2):
        [back] = torch.autograd.grad(objectives[k + 1], [inputs[k + 1]], retain_graph=True)
        size = (back.square().sum() / back.numel()).sqrt()
        size = torch.maximum(size, 0.99 * SIZE + 0.01 * size)
        torch.testing.assert_close(net[k].aux.size, size)
        objectives[k] = objectives[k] + (foretold[k] - back / size).square().mean()
    torch.autograd.backward(objectives)

    torch.testing.assert_close(loss, expected_loss.detach())
    for (name, found), expected in zip(net.named_parameters(), other.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None, name
        else:
            torch.testing.assert_close(found.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("model", ["plainnet", "mlp"])
def test_dni(batch, model):
    """Bodies go by s_k; M_k regresses on what comes back from module k+1, whose output has s_{k+1}."""
    assert_dni(batch, model)


REGRESSION, GRADIENT, TARGETS = dni.Generator.regression, dni.Generator.gradient, dni.targets
BROKEN = {
    "the sign of s": (dni.Generator, "gradient", lambda *args: -GRADIENT(*args)),
    "s in units of its size": (dni.Generator, "gradient", lambda self, foretold, scale: foretold.detach()),
    "the sign of the gradient": (dni.Generator, "regression", lambda self, m, back, scale: REGRESSION(self, m, -back)),
    "no regression": (dni.Generator, "regression", lambda *args: 0 * REGRESSION(*args)),
    "without y": (dni, "targets", lambda *args: 0 * TARGETS(*args)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(broken, batch, monkeypatch):
    monkeypatch.setattr(*BROKEN[broken])
    with pytest.raises(AssertionError):
        assert_dni(batch)


def test_generators_begin_with_nothing_and_are_updated_after_the_next_module(batch):
    net, updated = prepared(awake=False), []

    def update(k):
        updated.append((k, [module.aux is not None and module.aux.layers[-1].weight.grad is not None for module in net],
                        [module.body[0][0].weight.grad is not None for module in net]))  # fmt: skip

    methods.DNI().step(net, *batch, update)
    assert all(not p.grad.any() for k in (0, 1) for p in net[k].body.parameters())
    assert net[1].aux.layers[-1].weight.grad.any() and not net[0].aux.layers[-1].weight.grad.any()
    assert updated == [
        (0, [True, False, False], [True, True, False]),
        (1, [True, True, False], [True, True, True]),
        (2, [True, True, False], [True, True, True]),
    ]


def test_the_error_to_regress_on_is_of_order_one():
    """Where nothing is foretold, however small the gradients are."""
    generator = dni.Generator(Features((3, 4, 4), tokens=False), CLASSES)
    for scale in (1e-9, 1e-6, 0.9e-6):
        gradient = scale * torch.randn(BATCH, 3, 4, 4)
        assert 0.5 < generator.regression(torch.zeros_like(gradient), gradient) < 2
    assert generator.regression(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)) == 0


def test_gradients_of_zero_are_no_division_by_zero():
    generator = dni.Generator(Features((3,), tokens=False), CLASSES)
    assert generator.regression(torch.zeros(2, 3), torch.zeros(2, 3)) == 0 == generator.size


def test_one_module_is_back_propagation(batch):
    torch.manual_seed(0)
    net = networks.plainnet(num_classes=CLASSES, image_shape=SHAPE, depth=3, modules=1, head="linear").double()
    methods.prepare(methods.DNI(), net, batch[0])
    methods.DNI().step(net, *batch)
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    methods.BP().step(net, *batch)
    for a, b in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


def test_tokens_are_refused():
    net = networks.vit_s_16(num_classes=3, image_shape=(3, 16, 16))
    with pytest.raises(UsageError, match="--method dni needs modules that give maps or vector"):
        methods.prepare(methods.DNI(), net, torch.zeros(2, 3, 16, 16))
