"""What a convolution computes again in its backward pass, in place of keeping it: relu(batch_norm(z)) on a GPU."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import sgr_kernels as sk
from sgr_kernels import mixed_precision
from sgr_kernels.gates import Record
from sgr_kernels.gpu_path import cpu_as_gpu
from sgr_kernels.normalized import how_computed


@pytest.fixture(autouse=True, scope="module")
def products_on_cpu():
    """Products with a float32 result, which torch has for GPUs alone."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("mm.dtype", lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype), "CPU")
    with cpu_as_gpu():
        yield
    library._destroy()


def keeping_everything(monkeypatch):
    monkeypatch.setattr(mixed_precision, "how_computed", lambda tensor: None)


def convolutions(middle=None, size=3, norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    middle = middle or nn.ReLU(inplace=True)
    layers = [nn.Conv2d(4, 8, 3), norm(8), middle, nn.Conv2d(8, 6, size), norm(6), nn.Flatten(), nn.LazyLinear(5)]
    network = nn.Sequential(*layers)
    network(images())
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return network


def images(memory_format=torch.channels_last):
    """So large that no ReLU behind a convolution is a small one, which computes nothing again."""
    return torch.randn(8, 4, 12, 12, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=memory_format)


def gradients(network, x=None):
    network, x = copy.deepcopy(network), images() if x is None else x
    with torch.autocast("cpu", torch.bfloat16), Record(x):
        y = network(x)
    y.float().square().sum().backward()
    return [p.grad for p in network.parameters()], [*network.buffers()]


class Written(nn.Module):
    """ReLU, and something else in place."""

    def forward(self, x):
        return F.relu(x, inplace=True).add_(1)


NETWORKS = {
    "in place": convolutions(),
    "out of place": convolutions(nn.ReLU()),
    "leaky": convolutions(nn.LeakyReLU(0.1, inplace=True)),
    "pointwise": convolutions(size=1),
    "no ReLU": convolutions(nn.Identity()),
    "written": convolutions(Written()),
    "twice": convolutions(nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.1))),
    "not affine": convolutions(norm=lambda channels: nn.BatchNorm2d(channels, affine=False)),
    "no statistics": convolutions(norm=lambda channels: nn.BatchNorm2d(channels, track_running_stats=False)),
    "running statistics": convolutions().eval(),
}
KEPT = {"written", "not affine", "running statistics"}


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_the_same(kind, memory_format, monkeypatch):
    known = mock.Mock(side_effect=how_computed)
    monkeypatch.setattr(mixed_precision, "how_computed", known)
    found = gradients(NETWORKS[kind], images(memory_format))
    assert [how_computed(*call.args) is not None for call in known.call_args_list] == [False, kind not in KEPT]
    keeping_everything(monkeypatch)
    expected = gradients(NETWORKS[kind], images(memory_format))
    # The same numbers, but for a rounding of the standard deviation in float32.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("keeps", [True, False])
def test_the_input_is_not_kept(keeps, monkeypatch):
    if keeps:
        keeping_everything(monkeypatch)
    network, x = NETWORKS["pointwise"], images()
    with torch.autocast("cpu", torch.bfloat16), Record(x):
        y = network[:3](x)
        z = network[3](y)
    kept = [tensor.untyped_storage()._cdata for tensor in z.grad_fn.saved_tensors]
    assert (y.untyped_storage()._cdata in kept) == keeps


def test_writing_into_the_input_later_does_no_harm():
    torch.manual_seed(0)
    weight, x, norm = torch.randn(3, 4, 1, 1).requires_grad_(), images().bfloat16().requires_grad_(), nn.BatchNorm2d(4)
    results = []
    for writes in (False, True):
        with torch.autocast("cpu", torch.bfloat16), Record(x):
            y = F.relu(norm(x))
            z = F.conv2d(y, weight)
            if writes:
                y.mul_(2)
        results.append(torch.autograd.grad(z.float().square().sum(), weight))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_a_step_is_the_same(checkpoints, monkeypatch):
    def step():
        body, head = copy.deepcopy(NETWORKS["in place"][:-2]), copy.deepcopy(NETWORKS["in place"][-2:])
        x, target = images(), images().flip(0)

        def run(x):
            return checkpoint(body, x, use_reentrant=False) if checkpoints else body(x)

        def loss(y, labels):
            return F.cross_entropy(head(y), labels)

        with torch.autocast("cpu", torch.bfloat16):
            sk.local_step(run, loss, x, torch.arange(8) % 3, target, weight=1.0, engine="directional")
        return [p.grad for p in (*body.parameters(), *head.parameters())], [*body.buffers()]

    found = step()
    keeping_everything(monkeypatch)
    torch.testing.assert_close(found, step(), rtol=1e-3, atol=1e-3)


def test_errors_are_those_of_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"), Record(x := torch.randn(1, 4, 1, 1)):
        nn.BatchNorm2d(4)(x)
    with pytest.raises(ValueError, match="eps must be positive"), Record(x := torch.randn(2, 4, 3, 3)):
        F.batch_norm(x, None, None, torch.ones(4), torch.zeros(4), training=True, eps=-1.0)
