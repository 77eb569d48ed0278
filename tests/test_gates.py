"""Functions with kinks under frozen gates: recorded as they are, replayed along the recorded branches."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from gated_net import gradients
from helpers import device_of
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.gates import Record, Replay

BOUNDS = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)

# Of a (4, 6, 8, 8) tensor around 0
FUNCTIONS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": Tensor.relu,
    "leaky_relu, written": lambda x: F.leaky_relu(x, 0.2).mul_(2),
    "F.relu inplace": lambda x: F.relu(x * 1, inplace=True),
    "relu_": lambda x: (x * 1).relu_(),
    "nn.ReLU": nn.ReLU(),
    "F.relu of many": lambda x: F.relu(x.repeat(4, 1, 1, 1))[:4],
    "F.relu of many, inplace": lambda x: F.relu(x.repeat(4, 1, 1, 1), inplace=True)[:4],
    "relu6": lambda x: F.relu6(4 * x),
    "relu6 inplace": lambda x: nn.ReLU6(inplace=True)(4 * x),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_": lambda x: F.leaky_relu_(x * 1, 0.2),
    "prelu": lambda x: F.prelu(x, BOUNDS.to(x.device)),
    "hardtanh": F.hardtanh,
    "hardtanh channels-last": lambda x: F.hardtanh(x.contiguous(memory_format=torch.channels_last)),
    "hardtanh bounds": lambda x: F.hardtanh(x, -0.2, 0.7),
    "hardtanh_": lambda x: F.hardtanh_(x * 1),
    "hardsigmoid": lambda x: F.hardsigmoid(3 * x),
    "hardswish": lambda x: F.hardswish(3 * x),
    "hardswish inplace": lambda x: F.hardswish(3 * x, inplace=True),
    "elu": lambda x: F.elu(x, 0.3),
    "celu": lambda x: F.celu(x, 0.3),
    "selu": F.selu,
    "threshold": lambda x: F.threshold(x, 0.1, -1.0),
    "abs": torch.abs,
    "abs()": abs,
    "abs_": lambda x: (x * 1).abs_(),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp min": lambda x: torch.clamp(x, min=0.1),
    "clamp max": lambda x: x.clamp(max=0.1),
    "clamp tensors": lambda x: x.clamp(-0.3 * torch.ones_like(x), 0.4 * torch.ones_like(x)),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_": lambda x: (x * 1).clamp_(-0.1, 0.4),
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "minimum": lambda x: torch.minimum(x, x.flip(0)),
    "max of two": lambda x: torch.max(x, x.flip(0)),
    "maximum of equals": lambda x: torch.maximum(x, x.detach()),
    "max along": lambda x: torch.max(x, 1)[0],
    "max along, keepdim": lambda x: x.max(dim=1, keepdim=True).values,
    "min along": lambda x: x.min(2).values,
    "max of all": lambda x: x * x.max(),
    "amax": lambda x: x.amax((2, 3)),
    "amax, axis": lambda x: torch.amax(x, axis=(2, 3), keepdims=True),
    "max, axis": lambda x: x.max(axis=1).values,
    "return types": lambda x: x.max(1)[0] if isinstance(x.max(1), torch.return_types.max) else x,
    "integers": lambda x: x[torch.maximum(torch.tensor([1, -2]), torch.tensor(0)).abs()] * torch.tensor([3, 5]).max(),
    "integers of 32 bits": lambda x: x * (torch.full((1,), 2**24 + 1, dtype=torch.int32, device=x.device).abs() % 7),
    "spectrum": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2),
    "amin": lambda x: torch.amin(x, 1, keepdim=True),
    "sort": lambda x: x.sort(dim=1, descending=True)[0] * BOUNDS.to(x.device).view(6, 1, 1),
    "topk": lambda x: x.topk(3, dim=1).values,
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d module": nn.MaxPool2d(2),
    "max_pool2d dilated": lambda x: F.max_pool2d(x, 2, 1, 0, dilation=2, ceil_mode=True),
    "max_pool2d indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool2d channels-last": lambda x: F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.flatten(2), 5),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (3, 2)),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x, 3),
    "comparison": lambda x: torch.where(x > 0.1, 2 * x, x.square()),
    "masked": lambda x: x.masked_fill(x < x.flip(0), 0.0),
    "argmax": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "sign": lambda x: x * torch.sign(x),
    "floor": lambda x: x - torch.floor(4 * x) / 4,
    "rounding division": lambda x: x - torch.div(x, 0.25, rounding_mode="floor"),
    "detach": lambda x: x * x.detach(),
    "no_grad": lambda x: x / _scale(x),
    "item": lambda x: x * float(x.detach().abs().amax()),
    "to int": lambda x: x * (3 * x).to(torch.int64),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "normalize": lambda x: F.normalize(x, dim=1),
    "linear_relu": lambda x: sk.linear_relu(x.flatten(2), torch.eye(64).to(x)[:32]),
    "conv2d_relu": lambda x: sk.conv2d_relu(x, torch.ones(2, 6, 3, 3).to(x), padding=1),
}


@torch.no_grad()
def _scale(x: Tensor) -> Tensor:
    return x.abs().mean() + (x > 0).sum()


def value_and_gradient(function, x: Tensor, mode) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with mode(leaf):
        y = function(leaf)
    (gradient,) = torch.autograd.grad(y.square().sum(), leaf)
    return y.detach(), gradient


def nothing(_):
    return torch.autograd.set_grad_enabled(True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_recording_and_replaying_change_nothing(name, backend):
    function, tape = FUNCTIONS[name], []
    x = torch.randn(4, 6, 8, 8, dtype=torch.float64, device=device_of(backend))

    def recording(leaf):
        mode = Record(leaf)
        mode.tape = tape
        return mode

    plain = value_and_gradient(function, x, nothing)
    with sk.backend(backend):
        recorded = value_and_gradient(function, x, recording)
        replayed = value_and_gradient(function, x, lambda _: Replay(tape))
    # Torch has some constants in float32.
    rounded = {"hardsigmoid", "celu", *({"hardswish", "hardswish inplace"} if x.is_cuda else ())}
    tolerance = 1e-6 if name in rounded else 1e-12
    for results in (recorded, replayed):
        for mine, expected in zip(results, plain, strict=True):
            torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)
            assert mine.stride() == expected.stride()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_shows_as_it_does_without_gates(name, backend):
    x = torch.randn(4, 6, 8, 8, dtype=torch.float64, device=device_of(backend))
    x[0, 0, 0, 0] = torch.nan
    plain, _ = value_and_gradient(FUNCTIONS[name], x, nothing)
    with sk.backend(backend):
        recorded, _ = value_and_gradient(FUNCTIONS[name], x, Record)
    assert torch.equal(recorded.isnan(), plain.isnan())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_steps_across_kinks_give_the_derivative_along_frozen_gates(name):
    twice_differentiable = {"hardsigmoid": lambda x: F.relu6(3 * x + 3) / 6}  # torch's own is not
    expected = gradients("autograd", twice_differentiable.get(name, FUNCTIONS[name]))
    error = gradients("directional", FUNCTIONS[name], order=2, radius=0.003) - expected
    assert error.norm() < 1e-3 * expected.norm()


def test_without_gates_such_a_step_is_far_off():
    """What the test above would see if gates were not frozen."""
    hidden = sk.smooth(lambda x: F.max_pool2d(F.relu(x), 2))
    expected = gradients("autograd", hidden)
    error = gradients("directional", hidden, order=2, radius=0.003) - expected
    assert error.norm() > 1e-2 * expected.norm()


REFUSED = {
    "round trip": lambda x: torch.frac(x),
    "1-norm": lambda x: x / x.norm(p=1),
    "data": lambda x: x * x.data,
    "operator": lambda x: torch.ops.aten.relu(x),
    "cummax": lambda x: torch.cummax(x, 1)[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name):
    words = {"round trip": "frac", "1-norm": "norm", "data": "data", "operator": "aten.relu", "cummax": "cummax"}
    with pytest.raises(ValueError, match=words[name]):
        gradients("directional", REFUSED[name])


def test_what_does_not_depend_on_x_is_not_refused():
    weight = torch.randn(6, 1, 1, dtype=torch.float64, requires_grad=True)
    function = lambda x: x * torch.frac(weight)  # noqa: E731
    torch.testing.assert_close(gradients("directional", function, order=2), gradients("autograd", function))


def test_declared_operations_pass():
    with pytest.raises(ValueError, match="frac"):
        gradients("directional", torch.frac)
    declared, of_a_list = sk.smooth(lambda x: torch.frac(x)), sk.smooth(lambda tensors: torch.frac(tensors[0]))
    gradients("directional", declared)
    gradients("directional", lambda x: of_a_list([x]))


def test_a_network_that_takes_another_way_is_refused():
    calls = itertools.count()  # state that is not found

    def unsteady(x):
        return F.leaky_relu(x) if next(calls) % 2 else F.relu(x)

    with pytest.raises(RuntimeError, match="not the same in two passes"):
        gradients("directional", unsteady)
    calls = itertools.count()
    with pytest.raises(RuntimeError, match="not the same in two passes"):
        gradients("directional", lambda x: x if next(calls) % 2 else F.relu(x))


@pytest.mark.parametrize("function", [F.hardswish, F.hardsigmoid, torch.relu_, F.hardtanh_], ids=lambda f: f.__name__)
def test_functions_that_torch_does_not_list_are_frozen_in_compiled_code(function):
    torch._dynamo.reset()
    expected = gradients("directional", lambda x: function(3 * x), radius=0.1)
    compiled = torch.compile(lambda x: function(3 * x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients("directional", compiled, radius=0.1), expected)


def relu_of(first: int, then: int):
    """A network whose ReLU gets another number of samples in every pass but the first."""
    sizes = itertools.chain([first], itertools.repeat(then))

    def network(x: Tensor) -> Tensor:
        return F.relu(x.repeat(next(sizes), 1, 1, 1))[: len(x)]

    return network


@pytest.mark.parametrize(("first", "then"), [(1, 2), (1, 8), (8, 1)])  # 1536 elements a sample, and 4096 are many
def test_a_relu_of_another_shape_is_refused(first, then):
    with pytest.raises(RuntimeError, match="not the same in two passes"):
        gradients("directional", relu_of(first, then))


@pytest.mark.parametrize("function", [F.relu, F.leaky_relu, F.dropout])
@pytest.mark.parametrize("size", [4, 64])  # few elements, and many
def test_as_many_elements_in_another_shape_are_refused(function, size):
    x = torch.randn(2, size, size)
    with Record(x.requires_grad_()) as gates:
        function(x)
    with pytest.raises(RuntimeError, match="not the same in two passes"), Replay(gates.tape):
        function(x.view(size, 2, size))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("count", [1, 2048], ids=["few", "many"])
def test_relu_takes_nan_for_open_and_leaves_nothing_of_what_is_closed(count, inplace):
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0, float("nan"), float("-inf"), float("inf")]).repeat(count).requires_grad_()
    with Record(x) as gates:
        first = F.relu(x * 1, inplace)
    other = torch.full_like(x, float("nan")).requires_grad_()
    with Replay(gates.tape):
        second = F.relu(other * 1, inplace)
    is_open = torch.tensor([False, False, False, True, True, False, True]).repeat(count)
    torch.testing.assert_close(first, x.relu(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(second.isnan(), is_open) and not second[~is_open].any()
    for y, source in ((first, x), (second, other)):
        assert torch.equal(torch.autograd.grad(y.sum(), source)[0], is_open.float())


IN_FORMATS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 2),
    "gaps": lambda x: x[..., ::2],
    "a part": lambda x: x.transpose(1, 2)[1:],
}


@pytest.mark.parametrize("size", [4, 32])  # few elements, and many
@pytest.mark.parametrize("in_format", IN_FORMATS)
@pytest.mark.parametrize("function", [F.relu, F.leaky_relu, F.dropout])
def test_results_have_the_strides_of_torch(function, in_format, size):
    """Or a network that asks for a view of them works without gates alone."""
    x = IN_FORMATS[in_format](torch.randn(3, 4, size, size).requires_grad_())
    with Record(x) as gates:
        recorded = function(x)
    with Replay(gates.tape):
        replayed = function(x)
    assert recorded.stride() == replayed.stride() == function(x).stride()
    torch.testing.assert_close(replayed, recorded, rtol=0, atol=0)
