"""Products under autocast inside of the directional engine: as autocast computes them, but for the gradients of
parameters, which are not rounded to half precision."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sgr_kernels as sk
from sgr_kernels import mixed_precision
from sgr_kernels.gates import Record

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

CASES = {
    "linear": (F.linear, (6, 5), (4, 5), {}),
    "linear of tokens": (F.linear, (3, 7, 5), (4, 5), {}),
    "linear of one sample": (F.linear, (5,), (4, 5), {}),
    "conv1d": (F.conv1d, (2, 4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "conv2d": (F.conv2d, (2, 4, 9, 8), (6, 4, 3, 3), {}),
    "conv2d with options": (
        F.conv2d,
        (2, 4, 9, 8),
        (6, 2, 3, 3),
        {"stride": (2, 1), "padding": (1, 2), "dilation": 2, "groups": 2},
    ),
    "conv3d": (F.conv3d, (2, 4, 5, 6, 5), (6, 4, 3, 3, 3), {"padding": 1}),
    "conv2d of one sample": (F.conv2d, (4, 9, 8), (6, 4, 3, 3), {}),
    "stride of another kind": (F.conv2d, (2, 4, 9, 8), (6, 4, 3, 3), {"stride": np.int64(2)}),
    "padding by name": (F.conv2d, (2, 4, 9, 8), (6, 4, 3, 3), {"padding": "same"}),
    "linear_relu": (sk.linear_relu, (6, 5), (4, 5), {}),
    "conv2d_relu": (sk.conv2d_relu, (2, 4, 9, 8), (6, 4, 3, 3), {"padding": 1}),
}
UNTOUCHED = ("conv2d of one sample", "stride of another kind", "padding by name")  # left to autocast


def operands(shape, weight_shape, bias=True, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [shape, weight_shape, *([weight_shape[:1]] if bias else [])]
    return [torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes]


def gradient_like(y):
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)


def outcome(function, tensors, options, dtype, recorded):
    """Output under autocast, and gradients of the operands for one and the same gradient of the output."""
    with torch.autocast(tensors[0].device.type, dtype):
        with Record(tensors[0]) if recorded else contextlib.nullcontext():
            y = function(*tensors, **options)
        return y, torch.autograd.grad(y, tensors, gradient_like(y))  # inside: where the engine takes them


def in_float32(function, tensors, options, dtype):
    """Gradients of the rounded operands, not rounded."""
    rounded = [t.detach().to(dtype).float().requires_grad_() for t in tensors]
    y = function(*rounded, **options)
    return torch.autograd.grad(y, rounded, gradient_like(y).to(dtype).float())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_only_gradients_of_parameters_differ_from_autocast(case, bias, dtype, device):
    function, shape, weight_shape, options = CASES[case]
    tensors = operands(shape, weight_shape, bias, device)
    expected, (expected_input, *narrow) = outcome(function, tensors, options, dtype, recorded=False)
    result, (input_gradient, *found) = outcome(function, tensors, options, dtype, recorded=True)
    assert result.dtype == expected.dtype == dtype
    # Ours sums in float32 where autocast may take another path for tiny shapes: at most one rounding apart.
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 2 * torch.finfo(dtype).eps}
    torch.testing.assert_close(result, expected, **close)
    torch.testing.assert_close(input_gradient, expected_input, **close)
    if case in UNTOUCHED:
        assert all(torch.equal(a, b) for a, b in zip(found, narrow, strict=True))
        return
    exact = in_float32(function, tensors, options, dtype)[1:]
    for wide, truth in zip(found, exact, strict=True):
        assert wide.dtype == torch.float32
        torch.testing.assert_close(wide, truth, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0], narrow[0])


def test_weights_of_large_convolutions_are_summed_part_by_part(monkeypatch):
    tensors = operands((5, 4, 9, 8), (6, 4, 3, 3))
    whole = outcome(F.conv2d, tensors, {}, torch.bfloat16, recorded=True)[1][1]
    for elements in (1, 2 * (4 * 9 * 8 + 6 * 7 * 6)):  # one image at a time; two, two and one
        monkeypatch.setattr(mixed_precision, "LARGEST_COPIES", elements)
        parts = outcome(F.conv2d, tensors, {}, torch.bfloat16, recorded=True)[1][1]
        torch.testing.assert_close(parts, whole)


def test_float64_is_left_alone():
    tensors = [t.detach().double().requires_grad_() for t in operands((6, 5), (4, 5))]
    results = [outcome(F.linear, tensors, {}, torch.bfloat16, recorded) for recorded in (False, True)]
    assert results[0][0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_without_autocast_nothing_changes():
    tensors = operands((6, 5), (4, 5))
    with Record(tensors[0]):
        result = F.linear(*tensors)
    assert result.grad_fn.name() == F.linear(*tensors).grad_fn.name()


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_operands_without_gradient(frozen):
    """Without one of the weight there is nothing to do."""
    tensors = operands((2, 4, 9, 8), (6, 4, 3, 3))
    expected = list(outcome(F.conv2d, tensors, {}, torch.bfloat16, recorded=frozen != 1)[1])
    tensors[frozen].requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), Record(tensors[0]):
        y = F.conv2d(*tensors)
    del expected[frozen], tensors[frozen]
    torch.testing.assert_close(list(torch.autograd.grad(y, tensors, gradient_like(y))), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(6, 5), (3, 7, 5), (5,)])
def test_outputs_may_be_overwritten(shape):
    tensors = operands(shape, (4, 5))

    def network(x, weight, bias):
        return F.relu(F.linear(x, weight, bias), inplace=True)

    expected, gradients = outcome(network, tensors, {}, torch.bfloat16, recorded=False)
    result, found = outcome(network, tensors, {}, torch.bfloat16, recorded=True)
    torch.testing.assert_close(result, expected)
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02)


def test_inputs_of_frozen_layers_are_not_kept():
    x, weight, bias = operands((6, 4), (4, 4))
    with torch.autocast("cpu", torch.bfloat16), Record(x):
        hidden = x.bfloat16() * 2
        hidden.add_(F.linear(hidden, weight.detach(), bias.detach()))
    (gradient,) = torch.autograd.grad(hidden.sum(), x)
    torch.testing.assert_close(gradient, 2 * (1 + weight.detach().sum(0)).expand(6, 4), rtol=0.02, atol=0.02)


def test_biases_that_are_broadcast():
    x, weight, _ = operands((6, 5), (4, 5))
    tensors = [x, weight, torch.randn(1, 4).requires_grad_()]
    results = [outcome(F.linear, tensors, {}, torch.bfloat16, recorded) for recorded in (False, True)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_transforms_of_functions():
    x, weights, _ = operands((6, 5), (3, 4, 5))

    def network(x, weights):
        return torch.vmap(F.linear, (None, 0))(x, weights)

    with torch.autocast("cpu", torch.bfloat16):
        expected = network(x, weights)
        with Record(x):
            result = network(x, weights)
    torch.testing.assert_close(result, expected)


def test_devices_without_autocast():
    x, weight, bias = (t.detach().to("meta").requires_grad_() for t in operands((6, 5), (4, 5)))
    with Record(x):
        assert F.linear(x, weight, bias).shape == (6, 4)
