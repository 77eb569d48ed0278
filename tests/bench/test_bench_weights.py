"""What lambda under "mean" is under "batchmean"."""

from __future__ import annotations

import pytest
import torch
from sgr_bench.training import weights
from sgr_train import methods, networks

import sgr_kernels as sk


def plainnet(head="etf", **options):
    torch.manual_seed(0)
    return networks.plainnet(num_classes=10, norm="none", head=head, depth=4, **options)


def test_the_table_of_a_plainnet_of_four_layers():
    net = plainnet(image_shape=(3, 32, 32), width=16)
    assert weights.elements(net) == [16384, 16384, 8192]
    assert weights.table(net).splitlines() == [
        "| module | n | lambda 1 under mean is, under batchmean |",
        "|---|---|---|",
        "| 2 | 16384 | 6.1e-05 |",
        "| 3 | 16384 | 6.1e-05 |",
        "| 4 | 8192 | 0.00012 |",
    ]
    assert "lambda 1638.4 under mean" in weights.table(net, 1638.4) and "| 0.1 |" in weights.table(net, 1638.4)


@pytest.mark.parametrize("head_options", [{}, {"flatten": True}], ids=["pooled", "flat"])
def test_these_weights_give_the_same_gradients(head_options):
    """Module by module, of a step that trains on nothing but the SGR loss with the one and with the other."""
    net = plainnet(image_shape=(1, 8, 8), width=12, head_options=head_options).double()
    x, y, delta_pre = torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 10, None
    found = []

    def gradients(module, **options):
        step = sk.local_step(module.body, module.head, x, y, delta_pre, engine="fused", **options)
        grads = [p.grad.clone() for p in module.parameters()]
        module.zero_grad()
        return step, grads

    own = [0.0, *weights.as_batchmean(3000.0, net)]
    for module, weight in zip(net, own, strict=True):
        step, under_mean = gradients(module, weight=3000.0, reduction="mean")
        _, under_batchmean = gradients(module, weight=weight, reduction="batchmean")
        torch.testing.assert_close(under_mean, under_batchmean)
        _, without = gradients(module, weight=0.0)
        found.append(not torch.allclose(without[0], under_mean[0], rtol=1e-3))
        x, delta_pre = step.output, step.delta_out
    assert found == [False, True, True, True]


def test_the_method_has_them(monkeypatch):
    """A weight under "mean" reaches every module as it is, so that its n decides."""
    net, given = plainnet(image_shape=(1, 8, 8), width=12), []
    original = sk.local_step

    def spy(*args, **options):
        given.append((options["weight"], options["reduction"], args[4]))
        return original(*args, **options)

    monkeypatch.setattr(sk, "local_step", spy)
    methods.SGR(weight=3000.0, reduction="mean", engine="fused").step(net, torch.randn(4, 1, 8, 8), torch.arange(4))
    assert [each[:2] for each in given[1:]] == [(3000.0, "mean")] * 3
    assert [delta_pre[0].numel() for *_, delta_pre in given[1:]] == weights.elements(net)
