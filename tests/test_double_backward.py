"""Functions whose double backward is made of the kernels of an ordinary one."""

from __future__ import annotations

import contextlib
import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import Products
from networks import Residual
from sgr_train.networks.network import Checkpointed
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.double_backward import derivatives_of_torch, differentiated_twice, worth
from sgr_kernels.gpu_path import cpu_as_gpu


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch):
    monkeypatch.setattr(worth, "LEAST", 0)


def normalized(x: Tensor, weight: Tensor, bias: Tensor, **options) -> Tensor:
    return F.batch_norm(x, torch.zeros_like(weight), torch.ones_like(weight), weight, bias, **options)


OPTIONS = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
CASES = {
    "conv1d": (F.conv1d, (2, 2, 5), (2, 2, 3), {"padding": 1}),
    "conv2d": (F.conv2d, (2, 2, 4, 3), (2, 2, 3, 3), {"padding": (1, 0)}),
    "conv2d with options": (F.conv2d, (2, 4, 6, 5), (2, 2, 3, 3), OPTIONS),
    "conv3d": (F.conv3d, (1, 2, 3, 3, 3), (1, 2, 2, 2, 2), {}),
    "conv2d of one sample": (F.conv2d, (2, 4, 3), (2, 2, 3, 3), {"padding": 1}),
    "conv2d with padding by name": (F.conv2d, (2, 2, 4, 3), (2, 2, 3, 3), {"padding": "same"}),
    "batch norm": (normalized, (3, 2, 2, 2), (2,), {"training": True}),
    "batch norm of vectors": (normalized, (5, 2), (2,), {"training": True, "eps": 0.3}),
    "batch norm of other statistics": (normalized, (3, 2, 2, 2), (2,), {"training": False}),
}
NOTHING = contextlib.nullcontext()
LEFT_TO_TORCH = ("conv2d of one sample", "conv2d with padding by name", "batch norm of other statistics")


def operands(case: str) -> list[Tensor]:
    _, *shapes, _ = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shapes.append(shapes[1][:1])
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def called(case: str):
    function, _, _, options = CASES[case]

    def call(*tensors: Tensor) -> Tensor:
        with differentiated_twice():
            return function(*tensors, **options)

    return call


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_first_and_second_order(case):
    call, tensors = called(case), operands(case)
    is_ours = type(call(*tensors).grad_fn).__module__ == "torch.autograd.function"
    assert is_ours == (case not in LEFT_TO_TORCH)
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)


@pytest.mark.parametrize("case", ["conv2d with options", "batch norm"])
def test_the_sum_of_all_second_derivatives(case):
    """gradgradcheck takes the directions of the gradients one by one."""

    def second(function):
        tensors = operands(case)
        gradients = torch.autograd.grad(function(*tensors).tanh().square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(g.sin().sum() for g in gradients), tensors)

    function, _, _, options = CASES[case]
    torch.testing.assert_close(second(called(case)), second(partial(function, **options)))


def test_derivatives_of_third_order():
    def third(function, x, w):
        result = function(x, w).tanh()  # else it is 0
        for _ in range(3):
            of_x, of_w = torch.autograd.grad(result.square().sum(), (x, w), create_graph=True)
            result = torch.cat([of_x.flatten(), of_w.flatten()])
        return result

    x, w, _ = operands("conv2d with options")
    torch.testing.assert_close(
        third(called("conv2d with options"), x, w), third(lambda x, w: F.conv2d(x, w, **OPTIONS), x, w)
    )


def test_batch_norm_has_no_third_derivative():
    x, w, b = operands("batch norm")
    (first,) = torch.autograd.grad(called("batch norm")(x, w, b).tanh().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


@pytest.mark.parametrize("case", ["conv2d", "batch norm"])
def test_without_gradients_nothing_is_kept(case):
    tensors = operands(case)
    assert called(case)(*(tensor.detach() for tensor in tensors)).grad_fn is None
    with torch.no_grad():
        assert called(case)(*tensors).grad_fn is None


@pytest.mark.parametrize("case", ["conv2d", "batch norm"])
def test_small_ones_on_a_cpu_are_left_to_torch(case, monkeypatch):
    tensors = operands(case)
    monkeypatch.setattr(worth, "LEAST", tensors[0].numel() + 1)
    names = [type(called(case)(*tensors).grad_fn).__module__]
    with cpu_as_gpu():
        names.append(type(called(case)(*tensors).grad_fn).__module__)
    assert [name == "torch.autograd.function" for name in names] == [False, True]


def test_statistics_of_batches_are_kept():
    module, x = nn.BatchNorm2d(2).double(), operands("batch norm")[0]
    plain = copy.deepcopy(module)
    with differentiated_twice():
        module(x)
    plain(x)
    for found, expected in zip(module.buffers(), plain.buffers(), strict=True):
        assert found.ne(0).all()
        torch.testing.assert_close(found, expected)


class Head(nn.Module):
    """With a convolution of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 6, 3, stride=2), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.linear(torch.tanh(self.conv(x)).mean((2, 3))), y)


BODIES = {
    "autograd": lambda: nn.Sequential(Residual(4), nn.Conv2d(4, 4, 3, padding=1), nn.Softplus()),
    "fused": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
}


class Parts:
    """A module and what its step takes."""

    def __init__(self, engine: str, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.engine, self.body, self.head = engine, BODIES[engine]().to(dtype), Head().to(dtype)
        self.x, self.target = torch.randn(2, 3, 4, 9, 8, dtype=dtype)
        self.y = torch.tensor([0, 1, 2])

    def step(self, context: contextlib.AbstractContextManager = NOTHING) -> list[Tensor]:
        """Losses, and gradients of all parameters, of a copy."""
        body, head = copy.deepcopy((self.body, self.head))
        with context:
            result = sk.local_step(
                body, head, self.x, self.y, self.target, weight=3.0, reduction="batchmean", engine=self.engine
            )
        parameters = [*body.parameters(), *head.parameters()]
        return [result.loss, result.sgr, result.delta_out, *(parameter.grad for parameter in parameters)]


@pytest.mark.parametrize("engine", BODIES)
def test_a_step_gives_what_it_gives_with_derivatives_of_torch(engine):
    parts = Parts(engine)
    torch.testing.assert_close(parts.step(), parts.step(derivatives_of_torch()))


def test_regions_that_are_computed_again():
    parts = Parts("autograd")
    expected = parts.step(derivatives_of_torch())
    parts.body[0] = Checkpointed(parts.body[0])
    torch.testing.assert_close(parts.step(), expected)


def test_autocast_rounds_as_much_as_with_derivatives_of_torch():
    parts = Parts("autograd", torch.float32)
    exact = torch.cat([each.flatten() for each in parts.step()])
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = parts.step(), parts.step(derivatives_of_torch())
    assert [each.dtype for each in found] == [each.dtype for each in expected]
    errors = [(torch.cat([each.flatten() for each in step]) - exact).norm() for step in (found, expected)]
    assert 0 < errors[0] <= 1.25 * errors[1] < 0.25 * exact.norm()


@pytest.mark.parametrize("engine", BODIES)
def test_no_filter_is_larger_than_those_of_the_network(engine):
    parts = Parts(engine)
    with Products() as products:
        parts.step()
    assert {*products.filters} == {(3, 3)}
    with Products() as products:
        parts.step(derivatives_of_torch())
    assert max(products.filters) > (3, 3)  # else this test shows nothing


def test_no_gradient_is_computed_that_nobody_asked_for():
    """Two layers: a pass back to x, then two weight gradients each, and gradients for what is behind the second."""
    torch.manual_seed(0)
    body = nn.Sequential(*(nn.Conv2d(2, 2, 3, bias=False) for _ in range(2)), nn.Flatten())
    x, target, y = torch.randn(3, 2, 6, 6), torch.randn(3, 2, 6, 6), torch.tensor([0, 1, 2])
    with Products() as products:
        sk.local_step(body, lambda output, y: F.cross_entropy(output, y), x, y, target, weight=1.0, engine="autograd")
    # Forward, and the change of both outputs along the gradient of the SGR loss
    assert len(products.filters) == 4
    # Of the local loss and of the SGR loss
    assert products.of_weights == 4
    # Back to x, and from the second layer to the first, for the sum of both losses
    assert products.of_inputs == 3
