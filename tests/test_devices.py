"""Tensors without numbers (the device "meta") and default devices: what users of PyTorch expect of modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sgr_kernels as sk

CLASSES, WIDTH = 3, 16


class Network(nn.Module):
    """A body with both kinds of ReLU layers, and a head with a frame."""

    def __init__(self, **options) -> None:
        super().__init__()
        conv, linear = sk.Conv2dReLU(3, 4, 3, **options), sk.LinearReLU(16, WIDTH, **options)
        self.body = nn.Sequential(conv, nn.Flatten(), linear)
        self.head = sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, WIDTH, **options))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.body(x), labels)


def batch(device="cpu"):
    return torch.randn(5, 3, 4, 4, device=device), torch.zeros(5, dtype=torch.int64, device=device)


def devices_of(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


@pytest.fixture
def default_meta():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def assert_is_a_frame(weight: Tensor) -> None:
    """Unit rows whose pairwise cosine is -1/(K-1)."""
    gram = torch.full((CLASSES, CLASSES), -1 / (CLASSES - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(weight @ weight.T, gram)


def test_modules_made_on_meta_have_shapes_and_draw_no_numbers():
    state = torch.get_rng_state()
    with torch.device("meta"):
        inside = Network()
    for network in inside, Network(device="meta"):
        assert devices_of(network) == {"meta"}
        network(*batch("meta")).backward()
        assert {p.grad.shape == p.shape and p.grad.is_meta for p in network.parameters()} == {True}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("default_meta")
def test_modules_are_made_on_the_default_device():
    assert devices_of(Network()) == {"meta"}
    assert sk.etf_classifier(CLASSES, WIDTH).is_meta
    assert sk.etf_classifier(CLASSES, WIDTH, generator=torch.Generator("cpu")).is_meta


@pytest.mark.usefixtures("default_meta")
def test_an_explicit_device_precedes_the_default_one():
    seeds = [torch.Generator("cpu").manual_seed(1) for _ in range(2)]
    frame = sk.etf_classifier(CLASSES, WIDTH, device="cpu", generator=seeds[0])
    torch.set_default_device(None)
    assert_is_a_frame(frame)
    assert torch.equal(frame, sk.etf_classifier(CLASSES, WIDTH, generator=seeds[1]))


def test_what_is_on_meta_gets_numbers_from_a_state():
    expected = Network()
    with torch.device("meta"):
        network = Network()
    network.to_empty(device="cpu").load_state_dict(expected.state_dict())
    given = batch()
    assert torch.equal(network(*given), expected(*given))


def test_what_is_on_meta_gets_numbers_from_reset_parameters():
    network = Network(device="meta").to_empty(device="cpu")
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert_is_a_frame(network.head.classifier.weight)
    assert network(*batch()).isfinite()


def test_reset_parameters_draws_what_a_new_classifier_draws():
    def seeded():
        return torch.Generator().manual_seed(3)

    classifier = sk.ETFClassifier(CLASSES, WIDTH, dtype=torch.float64)
    weight = classifier.weight
    classifier.reset_parameters(seeded())
    assert classifier.weight is weight and not weight.requires_grad
    assert torch.equal(weight, sk.etf_classifier(CLASSES, WIDTH, dtype=torch.float64, generator=seeded()))


def steps(body, head, x, labels, **options):
    """Two steps, the second with a target, and the gradients."""
    first = sk.local_step(body, head, x, labels, None, weight=0.3, **options)
    second = sk.local_step(body, head, x, labels, torch.ones_like(x), weight=0.3, **options)
    return [*first[::2], first.delta_out, *second, *(parameter.grad for parameter in body.parameters())]


ENGINES = [("fused", "exact"), ("fused", "none"), ("autograd", "exact"), ("directional", "exact")]


@pytest.mark.parametrize(("engine", "curvature"), ENGINES)
@pytest.mark.parametrize("learned", [True, False])
def test_steps_on_meta_have_the_shapes_of_others(engine, curvature, learned):
    results = []
    for device in "cpu", "meta":
        body = nn.Sequential(sk.LinearReLU(6, WIDTH, device=device), sk.LinearReLU(WIDTH, WIDTH, device=device))
        make = nn.Linear if learned else lambda m, k, device: sk.ETFClassifier(k, m, device=device)
        head = sk.CrossEntropyHead(make(WIDTH, CLASSES, device=device))
        x, labels = torch.randn(5, 6, device=device), torch.zeros(5, dtype=torch.int64, device=device)
        results.append(steps(body, head, x, labels, engine=engine, curvature=curvature))
    for numbers, shapes in zip(*results, strict=True):
        assert shapes.is_meta and (shapes.shape, shapes.dtype) == (numbers.shape, numbers.dtype)


def test_shapes_on_meta_are_those_of_every_backend(backend):
    with sk.backend(backend):
        loss = sk.sgr_loss(*torch.ones(2, 4, 3, device="meta", requires_grad=True).unbind(0))
        y = sk.linear_relu(torch.ones(4, 3, device="meta"), torch.ones(2, 3, device="meta"))
    assert loss.is_meta and loss.shape == () and y.is_meta and y.shape == (4, 2)


@pytest.mark.parametrize("engine", ["autograd", "fused", "directional"])
def test_results_do_not_depend_on_the_default_device(engine):
    """Tensors made in between are made where the arguments are."""
    results = []
    for device in None, "meta":
        torch.manual_seed(0)
        body, head = sk.LinearReLU(6, WIDTH), sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, WIDTH))
        delta, target, labels = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6), torch.arange(5) % CLASSES
        torch.set_default_device(device)
        try:
            values = steps(body, head, target, labels, engine=engine, relative_floor=0.1)
            loss = sk.sgr_loss(delta, target, floor=0.5)
            (gradient,) = torch.autograd.grad(loss, delta, create_graph=True)
            values += [loss, gradient, *sk.sgr_residual(delta, target, floor=torch.tensor(0.5, device="cpu"))]
        finally:
            torch.set_default_device(None)
        results.append(values)
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_labels_on_another_device_are_an_error(engine):
    body, head = sk.LinearReLU(6, WIDTH), sk.CrossEntropyHead(sk.ETFClassifier(CLASSES, WIDTH))
    labels = torch.zeros(5, dtype=torch.int64, device="meta")
    with pytest.raises(ValueError, match="device"):
        sk.local_step(body, head, torch.randn(5, 6), labels, None, weight=0.0, engine=engine)
