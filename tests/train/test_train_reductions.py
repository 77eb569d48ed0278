"""What a lambda under one reduction is under another one."""

from __future__ import annotations

import itertools

import pytest
import torch
from sgr_train import networks, reductions

import sgr_kernels as sk

REDUCTIONS = ("mean", "batchmean", "sum")


@pytest.mark.parametrize(("given", "wanted"), itertools.product(REDUCTIONS, REDUCTIONS))
def test_the_loss_is_the_same(given, wanted):
    delta, target = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    weight = reductions.convert(7.0, given, wanted, elements=12, batch=5)
    loss = weight * sk.sgr_loss(delta, target, reduction=wanted)
    torch.testing.assert_close(loss, 7.0 * sk.sgr_loss(delta, target, reduction=given))
    assert (weight == 7.0) == (given == wanted)


def test_elements_are_those_of_the_inputs():
    network = networks.plainnet(num_classes=10, image_shape=(3, 32, 32), width=16, depth=4, head="etf")
    x, inputs = torch.zeros(1, 3, 32, 32), []
    for module in network.eval():
        inputs.append(x.numel())
        x = module.body(x)
    assert reductions.elements(network) == inputs[1:] == [16384, 16384, 8192]
