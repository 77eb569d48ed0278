"""Networks of the zoo: their blocks, and where they are cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sgr_train import heads, networks
from sgr_train.build import build
from sgr_train.config import RunConfig
from sgr_train.errors import UsageError
from sgr_train.networks.layers import ResidualBlock
from sgr_train.networks.network import Features
from sgr_train.settings import make
from torch import nn

import sgr_kernels as sk

SMALL = {"mlp", "pepita_conv", "plainnet", "plainnet32", "resnet14", "resnet32", "resnet110"}
SMALL |= {"swin_cifar", "vgg", "vit_cifar"}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Parameters without heads, as published: He et al. 2016 (Table 6, ResNet-32 and ResNet-110 without the classifier of
# 650), torchvision without its classifier, VGG-11 with one convolution more.
PARAMETERS = {
    "resnet14": 175_258 - 650 - 2752,
    "resnet32": 464_154 - 650,
    "plainnet32": 464_154 - 650,
    "resnet18": 11_689_512 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "swin_t": 28_288_354 - 769_000 - 1536,
    "pepita_conv": 2400,
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_numbers_of_parameters(name):
    with torch.device("meta"):
        network = networks.create(name, num_classes=10)
    assert sum(count(module.body) for module in network) == PARAMETERS[name]


@pytest.mark.parametrize("name", networks.names())
def test_every_network_gives_logits(name):
    size = 32 if name in SMALL else 224
    with torch.device("meta" if size > 32 else "cpu"):
        network = networks.create(name, num_classes=7, modules=1).eval()
        assert network.image_shape == (3, size, size)
        assert network(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "settings", "sizes"),
    [
        ("resnet32", {}, [1] * 16),
        ("resnet32", {"modules": 16}, [1] * 16),
        ("resnet32", {"modules": 3}, [6, 5, 5]),
        ("resnet32", {"modules": 2}, [11, 5]),
        ("resnet32", {"modules": 4}, [4, 4, 4, 4]),
        ("resnet32", {"cuts": (1, 15)}, [1, 14, 1]),
        ("resnet32", {"cuts": "stages"}, [6, 5, 5]),
        ("resnet110", {"modules": 3}, [19, 18, 18]),
        ("plainnet", {"depth": 5}, [1] * 5),
        ("plainnet", {"depth": 5, "modules": 2}, [2, 3]),
        ("plainnet", {"depth": 5, "modules": 3}, [2, 2, 1]),
        ("plainnet", {"depth": 6, "cuts": (4,)}, [4, 2]),
        ("mlp", {"depth": 4, "modules": 2}, [2, 2]),
        ("vgg", {"depth": 17, "cuts": "stages"}, [3] * 5),
        ("vit_cifar", {"depth": 5, "modules": 2}, [3, 3]),
        ("swin_cifar", {"depths": (1, 2, 1), "cuts": "stages"}, [2, 3, 2]),
    ],
)
def test_cuts(name, settings, sizes):
    network = networks.create(name, num_classes=10, head="etf", **settings)
    assert [len(module.body) for module in network] == sizes
    whole = network.whole()
    assert [len(module.body) for module in whole] == [sum(sizes)] and whole[0].head is network[-1].head


def test_k3_cuts_where_the_resolution_changes_and_k2_keeps_the_last_stage():
    for modules, shapes in ((3, [(16, 32), (32, 16), (64, 8)]), (2, [(32, 16), (64, 8)])):
        x = torch.randn(2, 3, 32, 32)
        for module, (channels, side) in zip(networks.resnet32(num_classes=10, modules=modules), shapes, strict=True):
            x = module.body(x)
            assert x.shape == (2, channels, side, side)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet32", {"modules": 17}, "1 to 16"),
        ("plainnet", {"depth": 5, "modules": 6}, "1 to 5"),
        ("plainnet", {"modules": 0}, "1 to 6"),
        ("plainnet", {"cuts": (0, 2)}, "between 1 and 5"),
        ("plainnet", {"cuts": (6,)}, "between 1 and 5"),
        ("plainnet", {"cuts": (3, 2)}, "increase"),
        ("plainnet", {"cuts": (2, 2)}, "increase"),
        ("plainnet", {"cuts": (2,), "modules": 3}, "drop --modules"),
        ("plainnet", {"cuts": "middle"}, "numbers, stages or auto, got 'middle'"),
        ("plainnet", {"width": 2}, "--width"),
        ("plainnet", {"width": 0}, "--width must be at least 1, got 0"),
        ("plainnet", {"norm": "layer"}, "--norm must be one of batch, none, got 'layer'"),
        ("plainnet", {"colour": 1}, "has no option 'colour'; it has depth, width, norm"),
        ("vgg", {"depth": 16}, r"must be 5 s \+ 2"),
        ("vit_s_16", {"image_shape": (3, 40, 32)}, "multiples of 16"),
        ("resnet33", {}, "--model must be one of mlp, "),
    ],
)
def test_what_does_not_fit_is_refused(name, settings, words):
    with pytest.raises(UsageError, match=words):
        networks.create(name, num_classes=10, **settings)


def test_names_that_are_no_entries_are_no_attributes():
    with pytest.raises(AttributeError, match="has no attribute 'resnet33'"):
        networks.resnet33  # noqa: B018


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 9])
def test_plainnet_has_three_stages(depth):
    x = torch.randn(2, 1, 8, 8)
    stages = [3 * index // depth for index in range(depth)]
    network = networks.plainnet(num_classes=10, image_shape=(1, 8, 8), depth=depth, width=16)
    for stage, module in zip(stages, network, strict=True):
        x = module.body(x)
        assert x.shape == (2, 16 * 2**stage, 8 // 2**stage, 8 // 2**stage)


def test_option_a_shortcut_subsamples_and_pads_with_zeros():
    block = ResidualBlock(3, 8, stride=2)
    nn.init.zeros_(block.norm.weight)
    x = torch.rand(2, 3, 6, 6)
    y = block(x)
    assert y[:, :3].equal(x[:, :, ::2, ::2]) and y[:, 3:].eq(0).all()
    assert count(ResidualBlock(8, 8)) == 2 * (8 * 8 * 9 + 2 * 8)


def test_plainnet32_is_resnet32_without_shortcuts():
    torch.manual_seed(0)
    plain = networks.plainnet32(num_classes=10)
    torch.manual_seed(0)
    residual = networks.resnet32(num_classes=10)
    x = torch.randn(2, 3, 32, 32)
    assert plain[0].body(x).equal(residual[0].body(x))  # the stem
    block, x = residual[1].body[0], plain[0].body(x)
    torch.testing.assert_close(plain[1].body(x), F.relu(block.norm(block.conv(block.first(x)))))


def test_methods_start_from_the_same_weights():
    def weights(method):
        torch.manual_seed(5)
        config = make(RunConfig, method=method, head="conv")
        network, _ = build(config, 10, (1, 8, 8))
        return [p for m in network for p in m.body.parameters()] + list(network[-1].head.parameters())

    for method in ("layerwise", "bp"):
        assert all(a.equal(b) for a, b in zip(weights("sgr"), weights(method), strict=True))


def test_mlp_flattens_once():
    x = torch.randn(2, 3, 8, 8)
    for index, module in enumerate(networks.mlp(num_classes=10, image_shape=(3, 8, 8), depth=3, width=20)):
        assert any(isinstance(layer, nn.Flatten) for layer in module.body[0]) == (index == 0)
        x = module.body(x)
        assert x.shape == (2, 20)


@pytest.mark.parametrize(
    ("settings", "norms"), [({}, 4), ({"norm": "none"}, 0), ({"bp_free": True}, 0), ({"norm": "batch"}, 4)]
)
def test_blocks_with_and_without_batch_norm(settings, norms):
    config = make(RunConfig, depth=4, **settings)
    network, _ = build(config, 10, (1, 8, 8))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == norms
    biases = sum(m.body[0][0].bias is not None for m in network)
    assert biases == 4 - norms  # a bias before BatchNorm would do nothing


@pytest.mark.parametrize(("name", "options"), [("plainnet", {"norm": "none"}), ("mlp", {})])
def test_activations_keep_their_size_without_normalisation(name, options):
    x = torch.randn(64, 3, 16, 16)
    first = x.square().mean()
    options = {"image_shape": (3, 16, 16), "depth": 9, "width": 128, **options}
    for module in networks.create(name, num_classes=10, **options):
        x = module.body(x)
    assert 0.3 < x.square().mean() / first < 3  # torch's own initialisation: below 0.002


def test_bodies_of_ones_own():
    bodies = [nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(432, 20))]
    seen = []

    def make_head(features: Features) -> nn.Module:
        seen.append((features.shape, features.kind, features.channels))
        return heads.FromModule(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))

    network = networks.from_bodies(bodies, make_head, (1, 8, 8), 10)
    assert seen == [((12, 6, 6), "maps", 12), ((20,), "vector", 20)]
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)
    step = sk.local_step(network[0].body, network[0].head, x, y, None, weight=0.0)
    torch.testing.assert_close(step.loss, F.cross_entropy(network[0].head.logits(step.output), y))
    with pytest.raises(UsageError, match=r"do not take inputs of shape \(3, 8, 8\)"):
        networks.from_bodies(bodies, make_head, (3, 8, 8), 10)


@pytest.mark.parametrize("wrap", [list, lambda blocks: nn.Sequential(*blocks), lambda blocks: [blocks[:1], blocks[1:]]])
def test_blocks_of_ones_own(wrap):
    blocks = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Conv2d(4, 6, 3), nn.ReLU()]
    network = networks.from_blocks(wrap(blocks), num_classes=3, image_shape=(1, 8, 8), cuts=(1,), head="linear")
    assert [list(module.body) for module in network] == [blocks[:1], blocks[1:]]
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(UsageError, match="1 to 3, the blocks of this network, got 4"):
        networks.from_blocks(wrap(blocks), num_classes=3, image_shape=(1, 8, 8), modules=4)


def test_making_a_network_runs_none_of_it():
    """The shapes of features are found without numbers: running statistics stay as they were made."""
    network = networks.resnet32(num_classes=10, modules=3)
    assert all(m.num_batches_tracked == 0 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert network.training and all(p.device.type == "cpu" for p in network.parameters())


def test_checkpointed_blocks_have_the_same_gradients_and_keep_less():
    def step(checkpointed):
        torch.manual_seed(0)
        network = networks.plainnet(num_classes=10, depth=4, modules=1)
        if checkpointed:
            network.checkpoint_blocks()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = network[0].head(network[0].body(x), y)
        loss.backward()
        return [p.grad for p in network.parameters()], sum(kept)

    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    (plain, kept), (again, kept_again) = step(False), step(True)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
    assert kept_again < kept / 2
