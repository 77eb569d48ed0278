"""Updates: one a batch, or one for several in a row."""

from __future__ import annotations

import pytest
import torch
from sgr_train import loss_scale, methods, networks, train
from sgr_train.loss_scale import LossScale
from sgr_train.updates import Updates
from torch import nn

SHAPE = (1, 8, 8)
METHODS = {
    "bp": ("bp", {}),
    "layerwise": ("layerwise", {"engine": "autograd"}),
    "Algorithm 1": ("sgr", {"engine": "autograd", "weight": 0.3}),
    "fused": ("sgr", {"engine": "fused", "weight": 0.3}),
    "directional": ("sgr", {"engine": "directional", "weight": 0.3}),
}


def trained(
    name: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    row: int,
    clip: float | None = None,
    scale: LossScale | None = None,
):
    """Parameters after an update with all images, in so many batches."""
    torch.manual_seed(0)
    network = networks.plainnet(
        num_classes=10, image_shape=SHAPE, depth=3, width=8, norm="none", head="linear"
    ).double()
    optimizers = [torch.optim.SGD(module.parameters(), 0.5) for module in network]
    updates, (entry, options) = Updates(network, optimizers, row, clip, scale), METHODS[name]
    method = methods.REGISTRY.make(entry, **options)
    method.grad_scale = scale.value if scale else 1.0
    methods.prepare(method, network, images[:2])
    for x, y in zip(images.chunk(row), labels.chunk(row), strict=True):
        updates.begin(last=False)
        method.step(network, x, y, updates)
        updates.end()
    assert updates.complete and all(p.grad is None for p in network.parameters())
    return [p.detach() for p in network.parameters()]


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(64, *SHAPE, dtype=torch.float64), torch.randint(0, 10, (64,))


@pytest.mark.parametrize("clip", [None, 1e-2])
@pytest.mark.parametrize("name", METHODS)
def test_four_batches_in_a_row_are_one_of_four_times_the_size(batch, name, clip):
    tolerance = 1e-6 if name == "directional" else 1e-10  # its step follows the batch
    whole = trained(name, *batch, 1, clip)
    for found, expected in zip(trained(name, *batch, 4, clip), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_scaled_gradients_are_clipped_and_averaged_as_they_are(batch, monkeypatch, name):
    monkeypatch.setattr(loss_scale, "RISE_AFTER", 2)  # updates, and not batches
    plain, scale = trained(name, *batch, 4, 1e-2), LossScale()
    for found, expected in zip(trained(name, *batch, 4, 1e-2, scale), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if name == "directional" else 1e-10)
    assert scale.value == loss_scale.FIRST


def test_an_incomplete_row_is_an_update_with_its_own_mean(batch):
    net = nn.Sequential(nn.Linear(64, 1, bias=False).double())
    updates, before = Updates(net, [torch.optim.SGD(net.parameters(), 1.0)], 3, None), net[0].weight.detach().clone()
    for last in (False, True):
        updates.begin(last)
        net(batch[0].flatten(1)).mean().backward()
        updates(0)
    torch.testing.assert_close(net[0].weight.detach(), before - batch[0].flatten(1).mean(0))
    updates.begin(last=False)
    assert not updates.complete


def test_a_run_takes_as_many_images_as_its_updates_need(tiny, monkeypatch):
    """128 images make two rows of three batches of 16, and state is kept at their ends alone."""
    kept, save = [], train.save

    def record(run, config):
        kept.append(run.epoch and run.epoch.steps)
        save(run, config)

    monkeypatch.setattr(train, "save", record)
    run, data = train.train(tiny(batch_size=16, accumulate=3, epochs=1, save_every=1))
    assert data.images_per_epoch(48) == 96 and kept == [None, 3, None]
