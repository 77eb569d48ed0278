"""InfoPro and decoupled greedy learning against their equations and what their published code computes."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sgr_train import heads, methods, networks
from sgr_train.errors import UsageError
from sgr_train.networks.network import Features, LocalModule, Network
from torch import nn
from train_helpers import isolated_losses

infopro = importlib.import_module("sgr_train.methods.infopro")  # the file, not its entry

SHAPE, CLASSES, BATCH = (2, 8, 8), 4, 6
EMBED = "contrastive"


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(BATCH, *SHAPE, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 3])


def prepared(**options):
    torch.manual_seed(0)
    net = networks.plainnet(num_classes=CLASSES, image_shape=SHAPE, depth=4, width=4, head="linear").double()
    net.mean, net.std = torch.full_like(net.mean, 0.45), torch.full_like(net.std, 0.2)
    method = methods.InfoPro(**options)
    methods.prepare(method, net, torch.zeros(2, *SHAPE, dtype=torch.float64))
    return net, method


def stretch(size, given):
    """(size, given): linear interpolation whose first and last values are those of the input."""
    matrix = torch.zeros(size, given, dtype=torch.float64)
    for i in range(size):
        at = i * (given - 1) / (size - 1)
        low = min(math.floor(at), given - 2) if given > 1 else 0
        matrix[i, low] += 1 - (at - low)
        if given > 1:
            matrix[i, low + 1] += at - low
    return matrix


def reconstruction(decoder, x, image):
    """Mean binary cross entropy of pixels from 0 to 1."""
    _, first, norm, _, last = decoder
    rows, columns = (stretch(size, given) for size, given in zip(SHAPE[1:], x.shape[2:], strict=True))
    maps = F.conv2d(rows @ x @ columns.T, first.weight, first.bias, padding=1)
    centred = maps - maps.mean((0, 2, 3), keepdim=True)
    maps = centred / (centred.square().mean((0, 2, 3), keepdim=True) + norm.eps).sqrt()
    maps = maps * norm.weight[:, None, None] + norm.bias[:, None, None]
    pixels = 1 / (1 + torch.exp(-F.conv2d(maps.clamp_min(0), last.weight, last.bias, padding=1)))
    return -(image * pixels.log() + (1 - image) * (1 - pixels).log()).mean()


def contrast(embedding, y):
    """Sample by sample: -log of the share of each other sample of its class among all others, at temperature 0.07."""
    unit = embedding / embedding.square().sum(1, keepdim=True).sqrt()
    total = 0
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        shares = {j: torch.exp(unit[i] @ unit[j] / 0.07) for j in others}
        alike = [j for j in others if y[j] == y[i]]
        if alike:
            total = total - sum((shares[j] / sum(shares.values())).log() for j in alike) / len(alike)
    return total / len(y)


def assert_infopro(batch, local_loss=EMBED):
    x, y = batch
    options = {"local_loss": local_loss, "loss_weights": (5.0, 0.5, 0.3, 2.0)}
    (net, method), (other, _) = prepared(**options), prepared(**options)
    losses = method.step(net, x, y)

    image, outputs = 0.2 * x + 0.45, [x]
    for k, module in enumerate(other):
        outputs.append(module.body(outputs[-1].detach()))
        if k < 3:
            ixx, ixy = [(5, 0.5), (2.65, 1.25), (0.3, 2)][k]  # r = 0, 1/2, 1
            logits = module.aux["embed"].logits(outputs[-1]) if local_loss == EMBED else module.head.logits(outputs[-1])
            local = contrast(logits, y) if local_loss == EMBED else F.cross_entropy(logits, y)
            expected = ixx * reconstruction(module.aux["decoder"], outputs[-1], image) + ixy * local
        else:
            expected = F.cross_entropy(module.head.logits(outputs[-1]), y)
        expected.backward()
        torch.testing.assert_close(losses[k], expected.detach())
    for (name, found), wanted in zip(net.named_parameters(), other.parameters(), strict=True):
        if wanted.grad is None:
            assert found.grad is None, name
        else:
            torch.testing.assert_close(found.grad, wanted.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("local_loss", [EMBED, "cross_entropy"])
def test_infopro(batch, local_loss):
    """(ixx1 (1-r) + ixx2 r) BCE + (ixy1 (1-r) + ixy2 r) L_y, and cross entropy in the last module."""
    assert_infopro(batch, local_loss)


WEIGHTS, LOSS = methods.InfoPro.weights, F.binary_cross_entropy_with_logits
CONTRASTIVE = infopro.contrastive
BROKEN = {
    "no image": (methods.InfoPro, "weights", lambda *args: (0.0, WEIGHTS(*args)[1])),
    "no labels": (methods.InfoPro, "weights", lambda *args: (WEIGHTS(*args)[0], 0.0)),
    "r from the end": (methods.InfoPro, "weights", lambda self, k, modules: WEIGHTS(self, modules - 2 - k, modules)),
    "the image as it is": (F, "binary_cross_entropy_with_logits", lambda x, image: LOSS(x, (image - 0.45) / 0.2)),
    "the sign of the contrast": (infopro, "contrastive", lambda *args: -CONTRASTIVE(*args)),
    "embeddings of any length": (F, "normalize", lambda embedding, dim: embedding),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(broken, batch, monkeypatch):
    monkeypatch.setattr(*BROKEN[broken])
    with pytest.raises(AssertionError):
        assert_infopro(batch)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (2, {0: (5, 1)}),
        (3, {0: (6, 0), 1: (1, 2)}),  # unpublished: those of four modules
        (4, {0: (6, 0), 1: (3.5, 1), 2: (1, 2)}),
        (8, {0: (5, 0), 3: (2.5, 1), 6: (0, 2)}),
        (16, {0: (5, 0.05), 7: (2.6, 0.275), 14: (0.2, 0.5)}),
        (55, {0: (5, 0.05), 53: (0.2, 0.5)}),  # unpublished: those of sixteen
    ],
)
def test_published_weights(modules, expected):
    for k, weights in expected.items():
        assert methods.InfoPro().weights(k, modules) == pytest.approx(weights)


def wave(*shape):
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(n * 0.7 + 0.1 * n**1.5 % 3).reshape(shape)


def test_numbers_of_the_published_code():
    """Its contrastive loss and its decoder, run on the same numbers; parameters of its networks for ResNet-32."""
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3])
    assert infopro.contrastive(wave(8, 6), y).item() == pytest.approx(3.5251245498657227, rel=1e-6)
    decoder = infopro.decoder(Features((4, 4, 4), tokens=False), (3, 8, 8), large=False).double()
    for p in decoder.parameters():
        p.data.copy_(0.3 * wave(*p.shape) if p.dim() > 1 else wave(*p.shape) + 0.5)
    x = wave(3, 4, 4, 4).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(decoder(x), (wave(3, 3, 8, 8) + 1) / 2)
    loss.backward()
    assert loss.item() == pytest.approx(1.7058183884260847, rel=1e-9)
    assert x.grad.norm().item() == pytest.approx(0.13575693439206565, rel=1e-9)
    assert x.grad[0, 0, 0, 0].item() == pytest.approx(-0.0010083953652347086, rel=1e-9)
    sizes = {16: (2091, 25408, 10186), 32: (3819, 43392, 28170), 64: (7275, 61824, 46602)}
    net = networks.resnet32(num_classes=10, modules=16, head="linear")
    methods.prepare(methods.InfoPro(), net, torch.zeros(2, 3, 32, 32))
    classifiers = networks.resnet32(num_classes=10, modules=16, head="linear")
    methods.prepare(methods.InfoPro(local_loss="cross_entropy"), classifiers, torch.zeros(2, 3, 32, 32))
    for module, other in zip(list(net)[:-1], classifiers, strict=False):
        parts = (module.aux["decoder"], module.aux["embed"], other.head)
        assert tuple(sum(p.numel() for p in part.parameters()) for part in parts) == sizes[module.features.channels]
    assert net[-1].aux is None


def test_networks_for_imagenet():
    """Convolutions 1x1 to 128, 3x3 to 32, 12, 3 channels, at 28, 56, 112, 224 pixels."""
    decoder = infopro.decoder(Features((512, 28, 28), tokens=False), (3, 224, 224), large=True)
    sizes = [(layer.weight.shape, None) for layer in decoder if isinstance(layer, nn.Conv2d)]
    assert [tuple(shape) for shape, _ in sizes] == [(128, 512, 1, 1), (32, 128, 3, 3), (12, 32, 3, 3), (3, 12, 3, 3)]
    shapes = []
    for layer in decoder:
        layer.register_forward_hook(lambda layer, _, output: shapes.append(tuple(output.shape)))
    decoder(torch.zeros(1, 512, 28, 28))
    assert [shape[2] for shape in shapes if shape[1] != 512][::1] == [28] * 3 + [56] * 4 + [112] * 4 + [224] * 2
    net = networks.resnet18(num_classes=10, modules=2, head="linear")
    methods.prepare(methods.InfoPro(), net, torch.zeros(2, 3, 224, 224))
    assert sum(isinstance(layer, nn.Conv2d) for layer in net[0].aux["embed"].modules()) == 4


def test_what_does_not_fit_is_refused(batch):
    with pytest.raises(UsageError, match="--loss-weights must be ixx1 ixy1 ixx2 ixy2, got 2 numbers"):
        methods.REGISTRY.make("infopro", loss_weights=(1.0, 2.0))
    net = networks.mlp(num_classes=CLASSES, image_shape=SHAPE)
    with pytest.raises(UsageError, match="--method infopro needs modules that give maps, and one gives vector"):
        methods.prepare(methods.InfoPro(), net, batch[0])
    net, method = prepared()
    with pytest.raises(UsageError, match="--local-loss contrastive needs one label an image"):
        method.step(net, batch[0], torch.full((BATCH, CLASSES), 1 / CLASSES))
    bare = [LocalModule(module.body, module.head) for module in net]
    with pytest.raises(UsageError, match="needs LocalModule"):
        methods.prepare(method, Network(bare, SHAPE, CLASSES), batch[0])


# --- decoupled greedy learning ----------------------------------------------------------------------------------------


def test_the_head_of_dgl():
    """Of its published code: two 3x3 convolutions with BatchNorm, means of quarters, BatchNorm, linear; in NumPy."""
    torch.manual_seed(0)
    head = heads.create("dgl", Features((3, 4, 4), tokens=False), num_classes=CLASSES).double()
    x = torch.randn(BATCH, 3, 4, 4, dtype=torch.float64)
    values = {name: p.detach().numpy() for name, p in head.named_parameters()}
    weights = [value for value in values.values() if value.ndim == 4]
    assert [w.shape for w in weights] == [(3, 3, 3, 3)] * 2
    maps = x.numpy()

    def normalise(maps):
        mean, variance = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True)
        return (maps - mean) / np.sqrt(variance + 1e-5)

    for weight in weights:
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        maps = np.maximum(normalise(np.einsum("bcijkl,ockl->boij", windows, weight)), 0)
    quarters = normalise(maps.reshape(BATCH, 3, 2, 2, 2, 2).mean((3, 5)))
    logits = quarters.reshape(BATCH, -1) @ values["classifier.weight"].T + values["classifier.bias"]
    np.testing.assert_allclose(head.logits(x).detach().numpy(), logits, rtol=1e-9)


def test_dgl_is_layerwise_with_this_head(batch):
    x, y = batch
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(networks.plainnet(num_classes=CLASSES, image_shape=SHAPE, depth=3, head="linear").double())
        methods.prepare(methods.DGL(), nets[-1], x)
    net, other = nets
    losses = methods.DGL().step(net, x, y)
    torch.testing.assert_close(losses, isolated_losses(other, x, y))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert [sum(isinstance(m, nn.Conv2d) for m in module.head.modules()) for module in net] == [2, 2, 0]
    assert all(module.aux is None for module in net)


@pytest.mark.parametrize("method", [methods.DGL(), methods.InfoPro(local_loss="cross_entropy")])
def test_their_heads_smooth_labels_as_those_before(batch, method):
    net = networks.plainnet(num_classes=CLASSES, image_shape=SHAPE, depth=3, head="linear").double()
    for module in net:
        module.head.label_smoothing = 0.1
    methods.prepare(method, net, batch[0])
    assert [module.head.label_smoothing for module in net] == [0.1] * 3
