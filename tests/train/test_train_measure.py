"""Accuracy, SGR loss and memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sgr_train import networks
from sgr_train.config import RunConfig
from sgr_train.measure import accuracy, measure_sgr
from sgr_train.networks.network import LocalModule
from sgr_train.settings import make
from sgr_train.train import measure, setup
from torch import nn

import sgr_kernels as sk


@pytest.fixture
def modules():
    return networks.plainnet(num_classes=10, image_shape=(1, 8, 8), depth=3, width=8, head="conv")


@pytest.fixture
def batches():
    return [(torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))) for _ in range(2)]


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_measured_is_what_local_step_trains(modules, batches, reduction):
    trained = torch.zeros(2)
    for x, y in batches:
        delta = None
        for k, module in enumerate(modules):
            options = {"weight": 1.0, "reduction": reduction, "engine": "autograd"}
            step = sk.local_step(module.body, module.head, x, y, delta, **options)
            trained[k - 1] += step.sgr / len(batches) if k else 0
            x, delta = step.output, step.delta_out
    measured = measure_sgr(modules, batches, make(RunConfig, reduction=reduction))
    torch.testing.assert_close(torch.tensor(measured), trained)


def test_an_incomplete_batch_counts_by_its_images(modules, batches):
    (x, y), _ = batches
    parts = [(x[:12], y[:12]), (x[12:], y[12:])]
    first, second = [measure_sgr(modules, [part], make(RunConfig)) for part in parts]
    expected = [(12 * a + 4 * b) / 16 for a, b in zip(first, second, strict=True)]
    assert measure_sgr(modules, parts, make(RunConfig)) == pytest.approx(expected)


@pytest.mark.parametrize(("subset", "size"), [(64, 8), (65, 8), (65, 4)])
def test_sgr_is_measured_in_whole_batches(write_npz, subset, size):
    """As training sees them: of 65 images the last one is left out, and one 4 x 4 image alone has no statistics."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (80, size, size), dtype=np.uint8), np.arange(80) % 3
    data = write_npz(train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    config = make(RunConfig, data=f"npz:{data}", train_subset=subset, depth=3, width=8, batch_size=64)
    run, data = setup(config)
    expected = measure_sgr(run.network, data.ordered(data.train, 64, 64), config)
    assert measure(run.network, config, data)["sgr"] == expected


def test_measuring_changes_nothing(modules, batches):
    before = {name: value.clone() for name, value in modules.state_dict().items()}
    rng = torch.get_rng_state()
    measure_sgr(modules, batches, make(RunConfig))
    accuracy(modules, batches)
    assert all(value.equal(before[name]) for name, value in modules.state_dict().items())
    assert all(p.grad is None for p in modules.parameters()) and modules.training
    assert torch.get_rng_state().equal(rng)
    modules[0].body(batches[0][0])  # running statistics move again
    assert not modules[0].body[0][1].running_mean.equal(before["0.body.0.1.running_mean"])


class FirstOrderOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x > 0)


def test_closed_form_measures_the_same_and_leaves_no_gradient(batches):
    config = make(RunConfig, depth=3, width=12, bp_free=True)
    modules = networks.plainnet(num_classes=10, image_shape=(1, 8, 8), depth=3, width=12, norm="none", head="etf")
    measured = measure_sgr(modules, batches, config)
    assert measured == pytest.approx(measure_sgr(modules, batches, make(RunConfig)), rel=1e-4)
    assert all(p.grad is None for p in modules.parameters())


def test_measuring_needs_no_second_derivative(modules, batches):
    class Body(nn.Module):
        def forward(self, x):
            return FirstOrderOnly.apply(x)

    chain = nn.ModuleList([modules[0], LocalModule(Body(), modules[0].head)])
    [value] = measure_sgr(chain, batches, make(RunConfig))
    assert 0 < value < 4


def test_one_module_has_no_neighbour(modules, batches):
    assert measure_sgr(modules.whole(), batches, make(RunConfig, method="bp")) == []


def test_accuracy_is_a_share_in_evaluation_mode(modules, batches):
    modules.eval()
    expected = np.zeros(3)
    for x, y in batches:
        for k, module in enumerate(modules):
            x = module.body(x)
            expected[k] += (module.head.logits(x).argmax(1) == y).float().mean().item() / 2
    modules.train()
    assert accuracy(modules, batches) == pytest.approx(expected.tolist())


PEAK = """
import numpy as np, torch
from sgr_train.measure import PeakMemory
size = 200 * 2**20
first = PeakMemory(torch.device("cpu"))
before = first.read()
np.ones(size // 8)  # held only for a moment
peak = first.read()
assert peak - before > 0.9 * size
assert PeakMemory(torch.device("cpu")).read() < peak - 0.5 * size
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of the resident set")
def test_peak_memory_begins_anew():
    """In a process of its own, since a large one may hold free memory; what that one's parent held does not count."""
    held = bytearray(b"1") * 2**30
    subprocess.run([sys.executable, "-c", PEAK], check=True)
    assert held
