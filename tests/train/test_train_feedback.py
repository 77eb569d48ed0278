"""Feedback alignment, direct feedback alignment and direct random target projection against their equations."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sgr_train import methods, networks
from sgr_train.errors import UsageError
from sgr_train.memory.step import step_peak_bytes
from sgr_train.methods import feedback
from sgr_train.networks.network import LocalModule, Network
from torch import nn

import sgr_kernels as sk

dfa = importlib.import_module("sgr_train.methods.dfa")  # the file, not its entry
fa = importlib.import_module("sgr_train.methods.fa")

SHAPE, CLASSES, BATCH = (1, 4, 4), 5, 6


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(BATCH, *SHAPE, dtype=torch.float64), torch.randint(0, CLASSES, (BATCH,))


def perceptron(head="linear", **options):
    torch.manual_seed(0)
    return networks.mlp(num_classes=CLASSES, image_shape=SHAPE, depth=3, width=8, head=head, **options).double()


def arrays(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


class Reference:
    """A perceptron in NumPy: forward pass, and the gradients for given gradients of the outputs x_k of its layers."""

    def __init__(self, net, x, y, fixed_head=False):
        weights = arrays(p for module in net for p in module.body.parameters())
        self.weights, biases = weights[::2], weights[1::2]
        head = net[-1].head.classifier
        self.classifier = arrays([head.weight])[0]
        self.inputs = [x.numpy().reshape(BATCH, -1)]
        for weight, bias in zip(self.weights, biases, strict=True):
            self.inputs.append(np.maximum(self.inputs[-1] @ weight.T + bias, 0))
        logits = self.inputs[-1] @ self.classifier.T
        logits = logits if fixed_head else logits + arrays([head.bias])[0]
        p = np.exp(logits - logits.max(1, keepdims=True))
        self.label = np.eye(CLASSES)[y.numpy()]
        self.error = p / p.sum(1, keepdims=True) - self.label

    def gradients(self, deltas):
        found = []
        for k, delta in enumerate(deltas):
            delta = delta * (self.inputs[k + 1] > 0)
            found += [delta.T @ self.inputs[k], delta.sum(0)]
        return found

    def of_head(self):
        return [self.error.T @ self.inputs[-1] / BATCH, self.error.sum(0) / BATCH]


def elements(matrix):
    """(classes, values), bit by bit."""
    bits = np.unpackbits(matrix.bits.numpy(), axis=1, bitorder="little")[:, : matrix.values]
    return matrix.scale * np.where(bits, 1.0, -1.0)


def direct(name, net, reference, fixed_head):
    """delta x_k of every layer, as the two methods have them."""
    matrices = [elements(matrix) for module in net for matrix in module.aux]
    signal = reference.error / BATCH if name == "dfa" else reference.label
    deltas = [signal @ matrix for matrix in matrices]
    return [*deltas, reference.error @ reference.classifier / BATCH] if fixed_head else deltas


def assert_direct(name, batch, head):
    net, method, fixed = perceptron(head), methods.REGISTRY.make(name), head == "etf"
    methods.prepare(method, net, batch[0])
    reference = Reference(net, *batch, fixed)
    [loss] = method.step(net, *batch)
    expected = reference.gradients(direct(name, net, reference, fixed)) + ([] if fixed else reference.of_head())
    found = [p.grad.numpy() for p in net.parameters() if p.grad is not None]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(loss.numpy(), -np.log((reference.error + reference.label)[reference.label > 0]).mean())


@pytest.mark.parametrize("head", ["linear", "etf"])
@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_direct_feedback(name, head, batch):
    """delta x_k = B_k (p - y) / B, or B_k y; the true gradient in the last layer that learns."""
    assert_direct(name, batch, head)


BACKWARD, TARGETS = feedback.backward, feedback.targets
BROKEN = {
    "the sign of the feedback": (feedback, "backward", lambda output, delta: BACKWARD(output, -delta)),
    "not divided by B": (feedback, "backward", lambda output, delta: BACKWARD(output, BATCH * delta)),
    "no feedback": (feedback, "backward", lambda output, delta: None),
    "without y": (feedback, "targets", lambda *args: 0 * TARGETS(*args)),
    "a head that waits": (feedback, "forward_last", lambda net, x: net[-1].head.logits(x).detach().requires_grad_()),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", ["dfa", "drtp"])
def test_a_broken_copy_of_direct_feedback_is_seen(name, broken, batch, monkeypatch):
    monkeypatch.setattr(*BROKEN[broken])
    with pytest.raises(AssertionError):
        assert_direct(name, batch, "linear")


def test_soft_labels_are_targets_as_they_are(batch):
    """Of mixed images, and of labels that the head smooths."""
    net = perceptron()
    mixed = torch.full((BATCH, CLASSES), 1 / CLASSES, dtype=torch.float64)
    assert feedback.targets(net, mixed, torch.float64).equal(mixed)
    net[-1].head.label_smoothing = 0.5
    target = feedback.targets(net, batch[1], torch.float64)
    assert target.sum(1).allclose(torch.ones(BATCH, dtype=torch.float64)) and target.min() == 0.5 / CLASSES


@pytest.mark.parametrize("tile", [1, 3 * 16, 2**20])
def test_a_matrix_is_made_tile_by_tile(tile, monkeypatch):
    """For outputs whose values fill no whole bytes, too."""
    monkeypatch.setattr(feedback, "TILE", tile)
    torch.manual_seed(0)
    signal = torch.randn(4, 3, dtype=torch.float64)
    matrix = feedback.RandomSigns(signal, 3, (5, 7), 0.5)
    expected = signal.numpy() @ elements(matrix)
    np.testing.assert_allclose(matrix(signal).numpy(), expected.reshape(4, 5, 7), rtol=1e-12)
    assert np.unique(np.abs(elements(matrix))) == pytest.approx(0.5 * (2 / 35) ** 0.5)
    assert abs(elements(feedback.RandomSigns(signal, 10, (5000,), 1.0)).mean()) < 0.1 * (2 / 5000) ** 0.5
    assert not list(matrix.parameters()) and list(matrix.state_dict()) == ["bits"]


def test_a_thousand_classes_take_a_bit_each():
    """Of outputs with 10,000 values, in memory that float32 would fill 32 times; a step makes no more than a tile."""
    net = networks.from_blocks([nn.Conv2d(3, 16, 1), nn.AvgPool2d(25)], num_classes=1000, image_shape=(3, 25, 25),
                               head="linear")  # fmt: skip
    x, y = torch.randn(2, 3, 25, 25), torch.tensor([3, 999])
    for name in ("dfa", "drtp"):
        method = methods.REGISTRY.make(name)
        methods.prepare(method, net, x)
        assert sum(buffer.nbytes for module in net for buffer in module.aux.buffers()) == 1000 * (16 * 625 + 16) / 8
        assert step_peak_bytes(net, method, x, y) < 4 * 1000 * 16 * 625 / 2
        method.step(net, x, y)
        assert net[0].body[0].weight.grad.any()


# --- feedback alignment -----------------------------------------------------------------------------------------------


class TwoConvolutions(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2))


def convolutional():
    torch.manual_seed(0)
    return networks.from_blocks([TwoConvolutions(), nn.ReLU()], num_classes=CLASSES, image_shape=SHAPE, head="linear",
                                modules=1).double()  # fmt: skip


def assert_feedback_alignment(batch):
    x, y = batch
    net, method = convolutional(), methods.FA()
    methods.prepare(method, net, x)
    first, _, second = net[0].body[0]
    _, matrix, matrix_of_head = net[0].aux
    method.step(net, x, y)

    with torch.no_grad():
        h1 = first(x).relu()
        z2 = second(h1)
        p = net(x).softmax(1)
        error = (p - F.one_hot(y, CLASSES)) / BATCH
        delta2 = (error @ matrix_of_head)[:, :, None, None] / z2[0, 0].numel() * (z2 > 0)
        delta1 = F.conv_transpose2d(delta2, matrix, stride=2, padding=1, output_padding=1, groups=2) * (h1 > 0)
        patches = F.unfold(x, 3, padding=1)  # (B, 9, positions)
        gradient1 = torch.einsum("bop,bip->oi", delta1.flatten(2), patches).reshape(first.weight.shape)
        pairs = F.unfold(h1, 3, padding=1, stride=2).reshape(BATCH, 2, 18, -1)
        gradient2 = torch.einsum("bgop,bgip->goi", delta2.reshape(BATCH, 2, 3, -1), pairs).reshape(second.weight.shape)
        classifier = error.T @ z2.relu().mean((2, 3))
    torch.testing.assert_close(net[0].head.classifier.weight.grad, classifier)
    torch.testing.assert_close(second.weight.grad, gradient2)
    torch.testing.assert_close(second.bias.grad, delta2.sum((0, 2, 3)))
    torch.testing.assert_close(first.weight.grad, gradient1)
    torch.testing.assert_close(first.bias.grad, delta1.sum((0, 2, 3)))


def test_feedback_alignment(batch):
    """The gradient for an input goes through B in the place of W^T, that of a weight is the true one."""
    assert_feedback_alignment(batch)


ORIGINAL = fa.random_feedback
FA_BROKEN = {
    "the weights themselves": lambda pairs: ORIGINAL((layer, layer.weight.detach()) for layer, _ in pairs),
    "a matrix left out": lambda pairs: ORIGINAL(list(pairs)[:-1]),
    "the sign of a matrix": lambda pairs: ORIGINAL((layer, -matrix) for layer, matrix in pairs),
}


@pytest.mark.parametrize("broken", FA_BROKEN)
def test_a_broken_copy_of_feedback_alignment_is_seen(broken, batch, monkeypatch):
    monkeypatch.setattr(fa, "random_feedback", FA_BROKEN[broken])
    with pytest.raises(AssertionError):
        assert_feedback_alignment(batch)


def test_with_its_weights_as_matrices_it_is_backpropagation(batch):
    net, other = convolutional(), convolutional()
    methods.prepare(methods.FA(), net, batch[0])
    for layer, matrix in zip(fa.linear_layers(net[0]), net[0].aux, strict=True):
        matrix.copy_(layer.weight.detach())
    methods.FA().step(net, *batch)
    methods.BP().step(other, *batch)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_network_is_as_it_was(batch):
    net = convolutional()
    methods.prepare(methods.FA(), net, batch[0])
    methods.FA().step(net, *batch)
    assert all("forward" not in vars(layer) for layer in net.modules())
    with pytest.raises(RuntimeError):
        methods.FA().step(net, batch[0][:, :, :0], batch[1])
    assert all("forward" not in vars(layer) for layer in net.modules())


class Behind(nn.Linear):
    """Its class is that of a linear layer, and what it computes is not."""

    def forward(self, x):
        return super().forward(x.flatten(1)).relu()


class Bypass(nn.Module):
    """Calls the weight of a layer and not the layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x):
        return F.linear(x.flatten(1), self.linear.weight)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (lambda: nn.Sequential(nn.Flatten(), sk.LinearReLU(16, 8)), "knows no LinearReLU; take nn.Linear"),
        (lambda: Behind(16, 8), "knows no Behind"),
        (Bypass, "needs every Linear to be called"),
        (lambda: nn.Conv2d(1, 2, 3, padding="same"), "with a number of zeros as padding, got padding='same'"),
        (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), "number of zeros as padding, got .*'reflect'"),
        (lambda: nn.ConvTranspose2d(1, 2, 3), "knows no ConvTranspose2d"),
    ],
)
def test_a_weight_that_would_send_its_own_gradient_is_refused(block, words):
    body = nn.Sequential(block())
    features = body(torch.zeros(2, *SHAPE)).shape[1]
    net = Network([LocalModule(body, sk.CrossEntropyHead(nn.Linear(features, CLASSES)))], SHAPE, CLASSES)
    with pytest.raises(UsageError, match=words):
        methods.prepare(methods.FA(), net, torch.zeros(2, *SHAPE))


def test_attention_is_refused():
    net = networks.vit_s_16(num_classes=3, image_shape=(3, 16, 16))
    with pytest.raises(UsageError, match="--method fa"):
        methods.prepare(methods.FA(), net, torch.zeros(2, 3, 16, 16))


def test_a_block_without_parameters_gets_no_feedback(batch):
    net = networks.from_blocks([nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)], num_classes=CLASSES, image_shape=SHAPE,
                               head="linear").double()  # fmt: skip
    for name in ("dfa", "drtp"):
        method = methods.REGISTRY.make(name)
        methods.prepare(method, net, batch[0])
        assert len(method.step(net, *batch)) == 1 and net[0].body[0].weight.grad.abs().sum() > 0
    assert dfa.DFA().scale == 1
