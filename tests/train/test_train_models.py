"""Networks, cuts and heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sgr_train.blocks import ResidualBlock
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.heads import conv_head, etf_head
from sgr_train.models import build

import sgr_kernels as sk


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_resnet32_has_the_published_number_of_parameters():
    config = RunConfig(model="resnet32", modules=1)
    [module] = build(config, (3, 32, 32), 10)
    # 464,154 with the linear classifier of 64 * 10 + 10 (0.46 M in Table 6 of He et al. 2016)
    assert count(module.body) == 464_154 - 650
    assert module.body(torch.randn(2, 3, 32, 32)).shape == (2, 64, 8, 8)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"model": "resnet32"}, [1] * 16),
        ({"model": "resnet32", "modules": 16}, [1] * 16),
        ({"model": "resnet32", "modules": 3}, [6, 5, 5]),
        ({"model": "resnet32", "modules": 2}, [11, 5]),
        ({"model": "resnet32", "modules": 4}, [4, 4, 4, 4]),
        ({"model": "resnet32", "cuts": (1, 15)}, [1, 14, 1]),
        ({"depth": 5}, [1] * 5),
        ({"depth": 5, "modules": 2}, [2, 3]),
        ({"depth": 6, "cuts": (4,)}, [4, 2]),
        ({"depth": 6, "cuts": (4,), "method": "bp"}, [2]),  # one module of the two parts
    ],
)
def test_cuts(settings, sizes):
    assert [len(module.body) for module in build(RunConfig(**settings), (3, 32, 32), 10)] == sizes


def test_k3_cuts_where_the_resolution_changes_and_k2_keeps_the_last_stage():
    for modules, shapes in ((3, [(16, 32), (32, 16), (64, 8)]), (2, [(32, 16), (64, 8)])):
        x = torch.randn(2, 3, 32, 32)
        for module, (channels, side) in zip(
            build(RunConfig(model="resnet32", modules=modules), (3, 32, 32), 10), shapes, strict=True
        ):
            x = module.body(x)
            assert x.shape == (2, channels, side, side)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": "resnet32", "modules": 17}, "1 to 16"),
        ({"depth": 5, "modules": 6}, "1 to 5"),
        ({"modules": 0}, "1 to 6"),
        ({"cuts": (0, 2)}, "between 1 and 5"),
        ({"cuts": (6,)}, "between 1 and 5"),
        ({"cuts": (3, 2)}, "increase"),
        ({"cuts": (2, 2)}, "increase"),
        ({"cuts": (2,), "modules": 3}, "drop --modules"),
        ({"width": 2}, "--width"),
    ],
)
def test_bad_cuts(settings, word):
    with pytest.raises(UsageError, match=word):
        build(RunConfig(**settings), (1, 8, 8), 10)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 9])
def test_plainnet_has_three_stages(depth):
    x = torch.randn(2, 1, 8, 8)
    stages = [3 * index // depth for index in range(depth)]
    for stage, module in zip(stages, build(RunConfig(depth=depth, width=16), (1, 8, 8), 10), strict=True):
        x = module.body(x)
        assert x.shape == (2, 16 * 2**stage, 8 // 2**stage, 8 // 2**stage)


def test_option_a_shortcut_subsamples_and_pads_with_zeros():
    block = ResidualBlock(3, 8, stride=2)
    torch.nn.init.zeros_(block.norm.weight)
    x = torch.rand(2, 3, 6, 6)
    y = block(x)
    assert y[:, :3].equal(x[:, :, ::2, ::2]) and y[:, 3:].eq(0).all()
    assert count(ResidualBlock(8, 8)) == 2 * (8 * 8 * 9 + 2 * 8)


def test_methods_start_from_the_same_weights():
    def weights(method):
        torch.manual_seed(5)
        modules = build(RunConfig(method=method, head="conv"), (1, 8, 8), 10)
        return [p for m in modules for p in m.body.parameters()] + list(modules[-1].head.parameters())

    for method in ("layerwise", "bp"):
        assert all(a.equal(b) for a, b in zip(weights("sgr"), weights(method), strict=True))


def test_etf_head_is_fixed_and_pools():
    head = etf_head(12, 10)
    assert count(head) == 0 and isinstance(head.classifier, sk.ETFClassifier)
    x, labels = torch.randn(4, 12, 3, 5), torch.arange(4)
    torch.testing.assert_close(head.logits(x), head.logits(x.mean((2, 3))))
    torch.testing.assert_close(head(x, labels), F.cross_entropy(x.mean((2, 3)) @ head.classifier.weight.T, labels))


def test_an_etf_of_one_class_is_refused_for_its_classes():
    with pytest.raises(UsageError, match="--head etf needs data with at least 2 classes, got 1") as caught:
        etf_head(12, 1)
    assert "--width" not in str(caught.value)


def test_conv_head_is_one_convolution_and_one_linear_layer():
    head = conv_head(8, 10)
    assert count(head) == 8 * 8 * 9 + 2 * 8 + 8 * 10 + 10
    x = torch.randn(4, 8, 5, 5)
    conv, norm, _ = head.features
    features = F.relu(norm(F.conv2d(x, conv.weight, padding=1))).mean((2, 3))
    torch.testing.assert_close(head.logits(x), features @ head.classifier.weight.T + head.classifier.bias)


def test_mlp_flattens_once():
    x = torch.randn(2, 3, 8, 8)
    for index, module in enumerate(build(RunConfig(model="mlp", depth=3, width=20), (3, 8, 8), 10)):
        assert any(isinstance(layer, torch.nn.Flatten) for layer in module.body[0]) == (index == 0)
        x = module.body(x)
        assert x.shape == (2, 20)


@pytest.mark.parametrize(
    ("settings", "norms"), [({}, 4), ({"norm": "none"}, 0), ({"bp_free": True}, 0), ({"norm": "batch"}, 4)]
)
def test_blocks_with_and_without_batch_norm(settings, norms):
    modules = build(RunConfig(depth=4, **settings), (1, 8, 8), 10)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in modules.modules()) == norms
    biases = sum(m.body[0][0].bias is not None for m in modules)
    assert biases == 4 - norms  # a bias before BatchNorm would do nothing


@pytest.mark.parametrize("model", ["plainnet", "mlp"])
def test_activations_keep_their_size_without_normalisation(model):
    x = torch.randn(64, 3, 16, 16)
    first = x.square().mean()
    for module in build(RunConfig(model=model, depth=9, width=128, norm="none"), (3, 16, 16), 10):
        x = module.body(x)
    assert 0.3 < x.square().mean() / first < 3  # torch's own initialisation: below 0.002
