"""Peak memory of a step by tensors without numbers: it is that of the step, and nothing is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from sgr_train import methods, networks
from sgr_train.memory.live import peak_live_bytes
from sgr_train.memory.step import Sizes, step_peak_bytes

OWN = ("bp", "greedy", "layerwise", "reforward", "sgr")


def prepared(method: str, **options):
    network = networks.create("resnet14", num_classes=10, modules=3)
    made = methods.REGISTRY.make(method, **options)
    methods.prepare(made, network, torch.zeros(2, *network.image_shape))
    return network, made


def real_peak(network, method, x, y) -> int:
    """The largest of all phases, after a first step, which is also checked."""
    peaks = []
    for phase in range(methods.phases(method, network)):
        methods.begin_epoch(method, phase, 1)
        for _ in range(2):
            network.train()
            step = peak_live_bytes(lambda: method.step(network, x, y, lambda k: network[k].zero_grad()))
        peaks.append(step)
    return max(peaks)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", OWN)
def test_peak_is_that_of_a_step(method, checkpointed):
    network, made = prepared(method)
    if checkpointed:
        network.checkpoint_blocks()
    x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    fake = step_peak_bytes(network, made, x, y)
    assert fake > 1e6
    assert fake == pytest.approx(real_peak(network, made, x, y), rel=0.005)


def test_network_and_method_stay_as_they_are():
    network, made = prepared("sgr", every=2)
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    x, y = torch.empty(4, 3, 32, 32, device="meta"), torch.empty(4, dtype=torch.long, device="meta")
    first, second = (step_peak_bytes(network, made, x, y) for _ in range(2))
    assert first == second and made.counter.steps == 0
    made.counter.steps = 1  # of two steps the second does not reconcile
    assert step_peak_bytes(network, made, x, y) < first
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in network.named_parameters())
    assert all(torch.equal(b, before[name]) for name, b in network.named_buffers())


def test_gradients_count_until_their_module_is_stepped():
    network, made = networks.create("mlp", num_classes=10, width=512, depth=3), methods.Layerwise(engine="autograd")
    x, y = torch.empty(2, 3, 32, 32), torch.empty(2, dtype=torch.long)
    largest = sum(p.nbytes for p in network[0].parameters())
    others = sum(p.nbytes for module in list(network)[1:] for p in module.parameters())
    assert largest < step_peak_bytes(network, made, x, y) < largest + others


def test_half_precision_needs_half_as_much():
    with torch.device("meta"):
        network, made = prepared("bp")
        x, y = torch.empty(64, 3, 32, 32), torch.empty(64, dtype=torch.long)
    wide, half = (step_peak_bytes(network, made, x, y, Sizes(autocast=dtype)) for dtype in (None, torch.bfloat16))
    assert 0.4 < half / wide < 0.65
