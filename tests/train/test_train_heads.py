"""Heads of the zoo."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sgr_train import heads
from sgr_train.errors import UsageError
from sgr_train.networks.network import Features
from torch import nn

import sgr_kernels as sk

MAPS, VECTOR = Features((12, 5, 4), tokens=False), Features((12,), tokens=False)
TOKENS, GRID = Features((7, 12), tokens=True), Features((4, 4, 12), tokens=True)
FITS = {
    "conv": {MAPS},
    "dgl": {MAPS},
    "etf": {MAPS, VECTOR, TOKENS, GRID},
    "infopro_cifar": {MAPS},
    "infopro_imagenet": {MAPS},
    "linear": {MAPS, VECTOR, TOKENS, GRID},
    "tokens": {TOKENS, GRID},
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("features", [MAPS, VECTOR, TOKENS, GRID], ids=lambda f: f"{f.kind}{len(f.shape)}")
@pytest.mark.parametrize("name", heads.names())
def test_every_head_fits_or_says_what_it_needs(name, features):
    if features not in FITS[name]:
        with pytest.raises(UsageError, match=f"--head {name} needs .* is {features.kind} of shape"):
            heads.create(name, features, num_classes=10)
        return
    head = heads.create(name, features, num_classes=10)
    x, labels = torch.randn(3, *features.shape, requires_grad=True), torch.tensor([1, 9, 0])
    logits = head.logits(x)
    assert logits.shape == (3, 10)
    torch.testing.assert_close(head(x, labels), F.cross_entropy(logits, labels))
    head(x, labels).backward()
    assert x.grad.isfinite().all() and all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("name", heads.names())
def test_every_head_takes_class_probabilities_and_smooths_labels(name):
    features = next(iter(FITS[name] & {MAPS, TOKENS}))
    head = heads.create(name, features, num_classes=10)
    x, labels = torch.randn(3, *features.shape), torch.tensor([1, 9, 0])
    probabilities = torch.rand(3, 10).softmax(1)
    logits = head.logits(x)
    torch.testing.assert_close(head(x, probabilities), F.cross_entropy(logits, probabilities))
    torch.testing.assert_close(head(x, F.one_hot(labels, 10).float()), head(x, labels))
    head.label_smoothing = 0.2
    torch.testing.assert_close(head(x, labels), F.cross_entropy(logits, labels, label_smoothing=0.2))


def test_every_head_is_in_the_table():
    assert set(heads.names()) == FITS.keys()


def test_etf_head_is_fixed_and_pools():
    head = heads.etf(MAPS, 10)
    assert count(head) == 0 and isinstance(head.classifier, sk.ETFClassifier)
    x = torch.randn(4, 12, 3, 5)
    torch.testing.assert_close(head.logits(x), x.mean((2, 3)) @ head.classifier.weight.T)
    tokens = torch.randn(4, 7, 12)
    torch.testing.assert_close(heads.etf(TOKENS, 10).logits(tokens).shape, torch.Size([4, 10]))


def test_etf_head_flattens():
    """A frame over all positions and channels, in their order, which may have more classes than there are channels."""
    for features in (MAPS, TOKENS):
        head, x = heads.etf(features, 30, flatten=True), torch.randn(4, *features.shape)
        frame = head.classifier.weight
        assert count(head) == 0 and frame.shape == (30, math.prod(features.shape))
        torch.testing.assert_close(frame @ frame.T, torch.eye(30) * 30 / 29 - 1 / 29)
        torch.testing.assert_close(head.logits(x), x.flatten(1) @ frame.T)


def test_an_etf_over_large_maps_is_one():
    """Of the first stage of a CIFAR network of twice the width."""
    frame = heads.etf(Features((32, 32, 32), tokens=False), 10, flatten=True).classifier.weight
    assert frame.shape == (10, 32768)
    torch.testing.assert_close(frame @ frame.T, torch.eye(10) * 10 / 9 - 1 / 9)


def test_an_etf_needs_features_for_its_classes():
    with pytest.raises(UsageError, match="--head etf needs wider modules .* or another --head"):
        heads.create("etf", VECTOR, num_classes=100)
    with pytest.raises(UsageError, match="--head etf needs wider modules .* or another --head"):
        heads.create("etf", VECTOR, num_classes=100, flatten=True)


@pytest.mark.parametrize("name", heads.names())
def test_one_class_is_refused_for_the_data(name):
    with pytest.raises(UsageError, match=f"--head {name} needs data with at least 2 classes, got 1") as caught:
        heads.create(name, MAPS, num_classes=1)
    assert "--width" not in str(caught.value)


def test_conv_head_is_one_convolution_and_one_linear_layer():
    head = heads.conv(Features((8, 5, 5), tokens=False), 10)
    assert count(head) == 8 * 8 * 9 + 2 * 8 + 8 * 10 + 10
    x = torch.randn(4, 8, 5, 5)
    conv, norm, _ = head.features
    features = F.relu(norm(F.conv2d(x, conv.weight, padding=1))).mean((2, 3))
    torch.testing.assert_close(head.logits(x), features @ head.classifier.weight.T + head.classifier.bias)


def test_linear_head_pools_or_flattens():
    x = torch.randn(3, 12, 5, 4)
    pooled = heads.linear(MAPS, 10)
    torch.testing.assert_close(pooled.logits(x), pooled.classifier(x.mean((2, 3))))
    flat = heads.linear(MAPS, 10, bias=False, flatten=True)
    assert count(flat) == 10 * 12 * 5 * 4
    torch.testing.assert_close(flat.logits(x), x.flatten(1) @ flat.classifier.weight.T)


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [
        (16, 16 * 32 * 9 + 2 * 32 + 32 * 128 + 128 + 1290),
        (32, 32 * 64 * 9 + 2 * 64 + 64 * 128 + 128 + 1290),
        (64, 64 * 64 * 9 + 2 * 64 + 64 * 128 + 128 + 1290),
    ],
)
def test_infopro_head_for_cifar(channels, parameters):
    assert count(heads.infopro_cifar(Features((channels, 8, 8), tokens=False), 10)) == parameters


def test_infopro_head_for_imagenet():
    head = heads.infopro_imagenet(Features((512, 14, 14), tokens=False), 1000)
    convolutions = 512 * 128 + 128 * 256 * 9 + 256 * 512 * 9 + 512 * 2048
    assert count(head) == convolutions + 2 * (128 + 256 + 512 + 2048) + 2048 * 1000 + 1000


def test_any_module_becomes_a_head():
    module = nn.Sequential(nn.Flatten(), nn.Linear(240, 10))
    head = heads.FromModule(module)
    x, labels = torch.randn(3, 12, 5, 4), torch.tensor([1, 9, 0])
    assert head.logits(x).equal(module(x))
    torch.testing.assert_close(head(x, labels), F.cross_entropy(module(x), labels))
