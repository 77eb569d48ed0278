"""Products under autocast inside of the directional engine: as autocast computes them, but for the gradients of
parameters, which are not rounded to half precision."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Widths
from sgr_train.memory.live import peak_live_bytes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sgr_kernels as sk
from sgr_kernels import mixed_precision
from sgr_kernels.gates import Record
from sgr_kernels.gpu_path import cpu_as_gpu

PATHS = ["cpu", "cpu as gpu", *(["cuda"] if torch.cuda.is_available() else [])]

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
# Channels last, the weights of the first two are products of matrices on a GPU.
CASES |= {
    "pointwise": (F.conv2d, (3, 4, 9, 8), (6, 4, 1, 1), {}),
    "pointwise conv1d": (F.conv1d, (3, 4, 9), (6, 4, 1), {}),
    "pointwise with stride": (F.conv2d, (3, 4, 9, 8), (6, 4, 1, 1), {"stride": 2}),
    "pointwise with padding": (F.conv2d, (3, 4, 9, 8), (6, 4, 1, 1), {"padding": 1}),
    "pointwise in groups": (F.conv2d, (3, 4, 9, 8), (6, 2, 1, 1), {"groups": 2}),
    "depthwise": (F.conv2d, (3, 4, 9, 8), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    "no images": (F.conv2d, (0, 4, 9, 8), (6, 4, 1, 1), {}),
    "no rows": (F.linear, (0, 5), (4, 5), {}),
}
PRODUCTS = ("pointwise", "pointwise conv1d", "no images")
UNTOUCHED = ("conv2d of one sample", "stride of another kind", "padding by name")  # left to autocast


def operands(shape, weight_shape, bias=True, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [shape, weight_shape, *([weight_shape[:1]] if bias else [])]
    return [torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes]


def gradient_like(y):
    values = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return torch.empty_like(y).copy_(values)  # in its layout


def channels_last(tensor):
    """The same numbers with the channels of a pixel side by side in memory."""
    return tensor.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()


@pytest.fixture(scope="module")
def products_on_cpu():
    """Products with a float32 result, which torch has for GPUs alone."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("mm.dtype", lambda a, b, out_dtype: a.to(out_dtype) @ b.to(out_dtype), "CPU")
    yield
    library._destroy()


@pytest.fixture
def path(request, products_on_cpu):
    """The device to use, and whether tensors there take the path of a GPU."""
    with cpu_as_gpu() if request.param == "cpu as gpu" else contextlib.nullcontext():
        yield request.param.split()[0], request.param != "cpu"


on_paths = pytest.mark.parametrize("path", PATHS, indirect=True)


def outcome(function, tensors, options, dtype, recorded):
    """Output under autocast, and gradients of the operands for one and the same gradient of the output."""
    with torch.autocast(tensors[0].device.type, dtype):
        with Record(tensors[0]) if recorded else contextlib.nullcontext():
            y = function(*tensors, **options)
        return y, torch.autograd.grad(y, tensors, gradient_like(y))  # inside: where the engine takes them


def in_float64(function, tensors, options, dtype):
    """Gradients of the rounded operands, not rounded."""
    rounded = [t.detach().to(dtype).double().requires_grad_() for t in tensors]
    y = function(*rounded, **options)
    return torch.autograd.grad(y, rounded, gradient_like(y.to(dtype)).double())


@on_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_only_gradients_of_parameters_differ_from_autocast(case, last, bias, dtype, path):
    device, as_gpu = path
    function, shape, weight_shape, options = CASES[case]
    tensors = operands(shape, weight_shape, bias, device)
    if last:
        tensors[0] = channels_last(tensors[0]) if len(shape) > 2 else tensors[0]
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
    is_exact = not as_gpu or len(weight_shape) == 2 or (case in PRODUCTS and last)
    of_weight, *of_bias = in_float64(function, tensors, options, dtype)[1:]
    assert all(gradient.dtype == torch.float32 for gradient in found)
    torch.testing.assert_close([g.double() for g in found[1:]], of_bias, rtol=1e-5, atol=1e-5)
    if is_exact:
        torch.testing.assert_close(found[0].double(), of_weight, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0], narrow[0]) == (not is_exact or 0 in shape)


def test_weights_of_large_convolutions_are_summed_part_by_part(monkeypatch):
    tensors = operands((5, 4, 9, 8), (6, 4, 3, 3))
    whole = outcome(F.conv2d, tensors, {}, torch.bfloat16, recorded=True)[1][1]
    for elements in (1, 2 * (4 * 9 * 8 + 6 * 7 * 6)):  # one image at a time; two, two and one
        monkeypatch.setattr(mixed_precision, "LARGEST_COPIES", elements)
        parts = outcome(F.conv2d, tensors, {}, torch.bfloat16, recorded=True)[1][1]
        torch.testing.assert_close(parts, whole)


# --- what a step on a GPU needs, with fake tensors --------------------------------------------------------------------


def residual_network(width=64):
    """Bottlenecks and a head: every kind of convolution of a ResNet but its first."""

    def normed(*sizes, **options):
        return [nn.Conv2d(*sizes, bias=False, **options), nn.BatchNorm2d(sizes[1])]

    class Bottleneck(nn.Module):
        def __init__(self, stride):
            super().__init__()
            inner = width // 4
            self.inside = nn.Sequential(
                *normed(width, inner, 1),
                nn.ReLU(inplace=True),
                *normed(inner, inner, 3, stride=stride, padding=1),
                nn.ReLU(inplace=True),
                *normed(inner, width, 1),
            )
            self.shortcut = nn.Sequential(*normed(width, width, 1, stride=stride)) if stride > 1 else nn.Identity()

        def forward(self, x):
            return F.relu(self.inside(x).add_(self.shortcut(x)), inplace=True)

    body = nn.Sequential(*(Bottleneck(stride) for stride in (1, 1, 1, 2, 1)))
    features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return body, sk.CrossEntropyHead(nn.Linear(width, 10), features)


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        layers = nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width), nn.Dropout(0.1)
        self.inside = nn.Sequential(*layers)

    def forward(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.inside(self.norms[1](x))


def transformer(width=64):
    features = nn.Sequential(nn.Linear(width, 4), nn.Flatten())
    return nn.Sequential(Encoder(width), Encoder(width)), sk.CrossEntropyHead(nn.Linear(64, 10), features)


NETWORKS = {"residual": (residual_network, (32, 64, 16, 16)), "transformer": (transformer, (32, 16, 64))}


def step_on_gpu(kind, engine):
    """A function that takes a step of the engine on fake tensors that take the path of a GPU."""
    make, shape = NETWORKS[kind]
    body, head = make()
    x, target = (torch.randn(shape).bfloat16() for _ in range(2))
    if x.dim() == 4:
        x, target = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, target))
    y = torch.zeros(shape[0], dtype=torch.long)

    def step(target=target if engine != "plain local" else None):
        kept = x.clone(), None if target is None else target.clone()  # as a training loop has them
        with torch.autocast("cpu", torch.bfloat16):
            name = "directional" if engine == "directional" else "autograd"
            sk.local_step(body, head, kept[0], y, kept[1], weight=1.0, engine=name)

    return step


@pytest.fixture
def fakes():
    with FakeTensorMode(), cpu_as_gpu():
        yield


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_on_a_gpu_needs_little_more_than_plain_local_learning(kind, fakes):
    peaks = {engine: peak_live_bytes(step_on_gpu(kind, engine)) for engine in ("plain local", "directional")}
    assert peaks["directional"] <= 1.1 * peaks["plain local"]


def test_no_activation_is_copied_to_float32(fakes):
    step = step_on_gpu("residual", "directional")
    with Widths() as seen:
        step()
    widest = max(p.numel() for p in residual_network()[0].parameters())
    assert max(seen.sizes) <= widest < 32 * 64 * 8 * 8


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
