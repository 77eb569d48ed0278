"""Classifiers of torchvision by name."""

from __future__ import annotations

import pytest
import torch
from sgr_train import methods, networks
from sgr_train.errors import UsageError
from sgr_train.networks import traced

NAMES = ["vgg11_bn", "densenet121", "efficientnet_b0", "convnext_tiny", "mobilenet_v3_small", "vit_b_32", "swin_v2_t"]


@pytest.mark.parametrize("name", NAMES)
def test_cut_in_three_and_takes_a_local_step(name):
    size = 224 if name == "vit_b_32" else 64
    torch.manual_seed(0)
    network = networks.create(name, num_classes=10, image_shape=(3, size, size), modules=3)
    assert len(network) == 3
    x, y = torch.randn(2, 3, size, size), torch.tensor([1, 2])
    updated = []
    losses = methods.Layerwise().step(network, x, y, updated.append)
    assert updated == [0, 1, 2] and all(loss.isfinite() for loss in losses)
    assert all(p.grad is not None for module in network for p in module.head.parameters())
    grads = [p.grad for module in network for p in module.body.parameters()]
    assert sum(g is None for g in grads) == 0


def test_blocks_compute_what_the_network_computes():
    from torchvision import models

    torch.manual_seed(0)
    blocks = traced.blocks_of("resnet18", (3, 64, 64))
    torch.manual_seed(0)
    whole = models.resnet18(weights=None)
    x = torch.randn(2, 3, 64, 64)
    features = torch.nn.Sequential(*blocks)(x)
    torch.testing.assert_close(whole.fc(features.mean((2, 3))), whole(x))


def test_what_differs_in_training_differs_in_the_blocks():
    [*_, last] = traced.blocks_of("alexnet", (3, 64, 64))
    assert last.training and not last.eval().training
    blocks = torch.nn.Sequential(*traced.blocks_of("efficientnet_b0", (3, 64, 64)))
    x = torch.randn(8, 3, 64, 64)
    blocks.eval()
    assert blocks(x).equal(blocks(x))  # stochastic depth is off
    blocks.train()
    assert not blocks(x).equal(blocks(x))


def test_channels_are_found_where_they_are():
    assert [b.tokens for b in traced.blocks_of("swin_v2_t", (3, 64, 64))][5:-1] == [True] * 32
    assert not any(b.tokens for b in traced.blocks_of("convnext_tiny", (3, 64, 64)))


def test_cuts_by_name():
    network = networks.create("densenet121", num_classes=10, cuts=("features.pool0", "features.transition1.pool"))
    assert len(network) == 3


@pytest.mark.parametrize(
    ("name", "cuts", "words"),
    [
        ("mobilenet_v2", ("features.3.conv.0.0",), "mobilenet_v2 cannot be cut there: .* is used by add"),
        ("vgg11_bn", ("features.1",), "vgg11_bn cannot be cut there: features.2 writes into it"),
        ("vgg11_bn", ("features.99",), "it can be cut after features.0, "),
        ("resnet32", ("layer1",), "only traced networks have names"),
    ],
)
def test_a_cut_that_a_connection_would_cross_is_refused(name, cuts, words):
    with pytest.raises(UsageError, match=f"--cuts {cuts[0]}: .*{words}"):
        networks.create(name, num_classes=10, cuts=cuts)


def test_what_cannot_be_traced_is_refused(monkeypatch):
    from torchvision import models

    class Branching(torch.nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    monkeypatch.setattr(models, "get_model", lambda name, weights: Branching())
    with pytest.raises(UsageError, match="--model resnet18 cannot be traced"):
        traced.blocks_of("resnet18", (3, 32, 32))


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"--model vit_b_32 does not take images of shape \(3, 64, 64\): "):
        networks.create("vit_b_32", num_classes=10, image_shape=(3, 64, 64))
    with pytest.raises(UsageError, match="--model must be one of"):
        networks.create("fcn_resnet50", num_classes=10)
