"""PEPITA against its equations, written out in NumPy."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from sgr_train import methods, networks
from sgr_train.errors import UsageError
from sgr_train.networks.layers import ResidualBlock
from torch import nn

pepita = importlib.import_module("sgr_train.methods.pepita")  # the file, not its entry

SHAPE, CLASSES, BATCH = (1, 6, 6), 4, 5


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(BATCH, *SHAPE, dtype=torch.float64), torch.randint(0, CLASSES, (BATCH,))


def network(bias=True):
    """A convolution, a linear layer, a classifier."""
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(27, 7, bias=bias), nn.ReLU())
    made = networks.from_blocks([conv, linear], num_classes=CLASSES, image_shape=SHAPE, head="linear",
                                head_options={"bias": bias})  # fmt: skip
    return made.double()


def convolve(x, weight, bias):
    """(B, C, H, W) with one row of zeros around, position by position; and the patches, (B, H, W, C, 3, 3)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = x.shape[2:]
    patches = np.stack([[padded[:, :, i : i + 3, j : j + 3] for j in range(columns)] for i in range(rows)])
    patches = patches.transpose(2, 0, 1, 3, 4, 5)
    return np.einsum("bijckl,ockl->boij", patches, weight) + bias[None, :, None, None], patches


def one_pass(x, parameters):
    """Inputs and outputs of the three layers; the input of the first by patches."""
    weight1, bias1, weight2, bias2, weight3, bias3 = parameters
    z, patches = convolve(x, weight1, bias1)
    h1 = np.maximum(z, 0)
    pooled = h1.reshape(BATCH, 3, 3, 2, 3, 2).max((3, 5)).reshape(BATCH, -1)
    h2 = np.maximum(pooled @ weight2.T + bias2, 0)
    logits = h2 @ weight3.T + bias3
    p = np.exp(logits)
    return (patches, pooled, h2), (h1, h2, p / p.sum(1, keepdims=True))


def expected_gradients(net, x, y, matrix):
    parameters = [p.detach().numpy() for p in (*net[0].body.parameters(), *net[1].parameters())]
    _, (h1, h2, p) = one_pass(x.numpy(), parameters)
    error = p - np.eye(CLASSES)[y.numpy()]
    modulated = x.numpy() + np.einsum("bk,kchw->bchw", error, matrix.numpy())
    (patches, pooled, last), (h1_err, h2_err, _) = one_pass(modulated, parameters)
    positions = h1[0, 0].size
    return [
        np.einsum("boij,bijckl->ockl", h1 - h1_err, patches) / BATCH / positions,
        (h1 - h1_err).sum((0, 2, 3)) / BATCH / positions,
        (h2 - h2_err).T @ pooled / BATCH,
        (h2 - h2_err).mean(0),
        error.T @ last / BATCH,
        error.mean(0),
    ], -np.log(p[np.arange(BATCH), y.numpy()]).mean()


def assert_pepita(batch):
    net, method = network(), methods.Pepita(projection=2.0)
    methods.prepare(method, net, batch[0])
    [matrix] = net[0].aux
    assert matrix.abs().max() <= 2 * (6 / 36) ** 0.5 < 1.1 * matrix.abs().max()
    expected, expected_loss = expected_gradients(net, *batch, matrix)
    [loss] = method.step(net, *batch)
    found = [p.grad.numpy() for p in (*net[0].body.parameters(), *net[1].parameters())]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(loss.numpy(), expected_loss)


def test_pepita(batch):
    """dW_l = (h_l - h_l^err) (h_{l-1}^err)^T, and e (h^err)^T in the last layer."""
    assert_pepita(batch)


BACKWARD, FORWARD, TARGETS = pepita.backward, pepita.forward, pepita.targets
PASSES = []


def first_again(net, x):
    """The second pass is that of the first input."""
    PASSES.append(x)
    return FORWARD(net, PASSES[-2 + len(PASSES) % 2])


def with_first_inputs(net, x):
    """Outputs of the second pass, but products with the inputs of the first."""
    PASSES.append(x)
    if len(PASSES) % 2:
        return FORWARD(net, x)
    pairs = zip(FORWARD(net, PASSES[-2]), FORWARD(net, x), strict=True)
    return [one._replace(output=other.output) for one, other in pairs]


def minus_projection(net, x):
    PASSES.append(x)
    return FORWARD(net, x if len(PASSES) % 2 else 2 * PASSES[-2] - x)


BROKEN = {
    "the sign of the updates": ("backward", lambda linear, delta: BACKWARD(linear, -delta)),
    "sums over positions": ("backward", lambda linear, delta: BACKWARD(linear, delta * delta[0, 0].numel())),
    "h_{l-1} in the place of h_{l-1}^err": ("forward", with_first_inputs),
    "no error in the input": ("forward", first_again),
    "x - F e": ("forward", minus_projection),
    "e = p": ("targets", lambda *args: 0 * TARGETS(*args)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(broken, batch, monkeypatch):
    PASSES.clear()
    monkeypatch.setattr(pepita, *BROKEN[broken])
    with pytest.raises(AssertionError):
        assert_pepita(batch)


def test_layers_without_bias(batch):
    net = network(bias=False)
    methods.prepare(methods.Pepita(), net, batch[0])
    methods.Pepita().step(net, *batch)
    assert all(p.grad is not None for p in (*net[0].body.parameters(), *net[1].parameters()))


def test_a_fixed_classifier_stays(batch):
    net = networks.plainnet(num_classes=CLASSES, image_shape=SHAPE, norm="none", depth=2).double()
    methods.prepare(methods.Pepita(), net, batch[0])
    methods.Pepita().step(net, *batch)
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: networks.plainnet(num_classes=3, image_shape=SHAPE), "BatchNorm2d"),
        (lambda: networks.plainnet(num_classes=3, image_shape=SHAPE, norm="none", head="conv"), "BatchNorm2d"),
        (lambda: networks.from_blocks([ResidualBlock(1, 4)], num_classes=3, image_shape=SHAPE), "ResidualBlock"),
        (lambda: networks.from_blocks([nn.Conv2d(1, 2, 3), nn.Tanh()], num_classes=3, image_shape=SHAPE), "Tanh"),
    ],
)
def test_other_networks_are_refused_and_the_cure_is_named(make, found):
    with pytest.raises(UsageError, match=f"this network has {found}; take --model pepita_conv, .*--norm none"):
        methods.prepare(methods.Pepita(), make(), torch.zeros(2, *SHAPE))
