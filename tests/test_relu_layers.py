"""linear_relu, conv2d_relu and their modules: derivatives, dtypes, layouts, what is saved and what is computed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, any_order_sum_error, assert_as_exact_as, device_of, gamma, operators_on, upcast
from sgr_bench import reference
from sgr_bench.precisions import products_in
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sgr_kernels as sk
from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.relu_backward import through_relu

KERNEL_BACKENDS = [name for name, status in sk.backends().items() if status == "ok" and name != "reference"]


def gate(grad, output, sum_features):
    """Images have four dimensions here, and features are last otherwise."""
    return through_relu(grad, output, output.dim() != 4, sum_features)


@dataclass
class Case:
    """A layer: shapes of its tensors and the arguments of the convolution."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool = True
    options: dict = field(default_factory=dict)
    channels_last: bool = False

    def mine(self, x, weight, bias=None):
        return (sk.conv2d_relu if self.is_conv else sk.linear_relu)(x, weight, bias, **self.options)

    def plain(self, x, weight, bias=None):
        return F.relu((F.conv2d if self.is_conv else F.linear)(x, weight, bias, **self.options))

    @property
    def is_conv(self):
        return len(self.weight) == 4

    def tensors(self, dtype=torch.float64, device="cpu", requires_grad=True):
        """x, weight and perhaps bias."""
        shapes = [self.x, self.weight, *([self.weight[:1]] if self.bias else [])]
        tensors = [torch.randn(shape, dtype=torch.float64).to(device, dtype) for shape in shapes]
        if self.channels_last:
            tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
        return [t.requires_grad_(requires_grad) for t in tensors]


CASES = {
    "linear": Case((3, 4), (5, 4)),
    "linear_no_bias": Case((3, 4), (5, 4), bias=False),
    "linear_3d": Case((2, 3, 4), (5, 4)),
    "linear_4d": Case((2, 3, 2, 4), (5, 4)),
    "linear_5d": Case((2, 1, 3, 2, 4), (5, 4)),
    "conv": Case((2, 2, 4, 5), (3, 2, 3, 2)),
    "conv_no_bias": Case((2, 2, 4, 4), (3, 2, 2, 2), bias=False),
    "conv_padding": Case((2, 2, 3, 3), (3, 2, 3, 3), options={"padding": 1}),
    "conv_strided": Case((2, 2, 5, 4), (3, 2, 3, 2), options={"stride": (2, 1), "padding": (0, 1)}),
    "conv_dilated": Case((2, 2, 5, 4), (3, 2, 2, 2), options={"dilation": [2, 1]}),
    "conv_groups": Case((2, 4, 3, 3), (2, 2, 2, 2), options={"groups": 2}),
    "conv_channels_last": Case((2, 2, 4, 4), (3, 2, 3, 3), options={"padding": 1}, channels_last=True),
    "conv_1x1": Case((2, 3, 2, 2), (4, 3, 1, 1)),
}
# Dimensions that a rounding error can be measured on.
LARGE = {
    "linear": Case((33, 70), (47, 70)),
    "linear_3d": Case((5, 9, 40), (17, 40)),
    "conv": Case((3, 6, 9, 7), (8, 6, 3, 3), options={"stride": 2, "padding": 1}),
    "conv_channels_last": Case((3, 6, 9, 7), (8, 6, 3, 3), options={"padding": 1}, channels_last=True),
    "conv_groups": Case((3, 6, 9, 7), (8, 3, 3, 3), options={"groups": 2}),
}


def randn_like(tensors):
    return [torch.randn_like(t, requires_grad=False) for t in tensors]


def all_orders(function, tensors, upstream, directions):
    """Output, first derivatives, and the derivatives of their product with ``directions``."""
    upstream = upstream.detach().requires_grad_()
    output = function(*tensors)
    first = torch.autograd.grad(output, tensors, upstream, create_graph=True)
    second = torch.autograd.grad(first, [upstream, *tensors[:2]], directions, allow_unused=True)
    return [output.detach(), *(g.detach() for g in first), *second]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradcheck(backend, case):
    tensors = case.tensors(device=device_of(backend))
    with sk.backend(backend), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        assert torch.autograd.gradcheck(case.mine, tensors, fast_mode=True)
        assert torch.autograd.gradgradcheck(case.mine, tensors, fast_mode=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_plain_torch_in_float64(backend, case):
    tensors = case.tensors(device=device_of(backend))
    with torch.no_grad():
        upstream = torch.randn_like(case.plain(*tensors))
    directions = randn_like(tensors)
    with sk.backend(backend):
        mine = all_orders(case.mine, tensors, upstream, directions)
    plain = all_orders(case.plain, tensors, upstream, directions)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    mine_last, plain_last = (each[0].is_contiguous(memory_format=torch.channels_last) for each in (mine, plain))
    assert mine_last == plain_last  # cuDNN has no such convolutions in float64
    assert mine_last or not case.channels_last or tensors[0].is_cuda


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_as_exact_as_plain_torch(backend, case, dtype):
    tensors = case.tensors(dtype, device_of(backend))
    with torch.no_grad():
        upstream = torch.randn_like(case.plain(*tensors))
    directions = randn_like(tensors)
    wide = [t.detach().double().requires_grad_() for t in tensors]
    with products_in("ieee", device_of(backend)):  # cuDNN takes TF32 for some of them
        with sk.backend(backend):
            mine = all_orders(case.mine, tensors, upstream, directions)
        plain = all_orders(case.plain, tensors, upstream, directions)
    layer = F.conv2d if case.is_conv else F.linear

    def gated(gates):
        return lambda *given: gates * layer(*given, **case.options)

    def exact(gates):
        return all_orders(gated(gates), wide, upstream.double(), [direction.double() for direction in directions])

    # Gates are part of the input of a derivative: each has those of its own output, which may differ beside zero.
    gates, usual_gates = mine[0] > 0, plain[0] > 0
    before = layer(*(t.detach() for t in wide), **case.options)
    usual_error = (plain[0].double() - before.relu()).abs().max()
    assert (before[gates != usual_gates].abs() <= 2 * usual_error).all()
    bounds = [0.0] * len(mine)
    if dtype == torch.float64:
        # The truth is rounded as well. Everything is a sum of products, so magnitudes give the size of their terms.
        sizes = [t.detach().abs().requires_grad_() for t in wide]
        magnitudes = all_orders(gated(gates), sizes, upstream.abs(), [direction.abs() for direction in directions])
        weight = tensors[1]
        longest = max(weight[0].numel(), weight[:, 0].numel(), upstream.numel() // len(weight))
        bounds = [2 * gamma(longest + 10) * float(size.norm()) for size in magnitudes]
    for a, b, truth, usual, any_order in zip(mine, plain, exact(gates), exact(usual_gates), bounds, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        assert_as_exact_as(a, truth + (b.double() - usual), upcast(truth), any_order)


MODULES = {
    "linear": (lambda: sk.LinearReLU(4, 5), lambda: nn.Linear(4, 5), (6, 4)),
    "linear_no_bias": (lambda: sk.LinearReLU(4, 5, bias=False), lambda: nn.Linear(4, 5, bias=False), (6, 4)),
    "conv": (
        lambda: sk.Conv2dReLU(2, 4, 3, stride=2, padding=1, groups=2),
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        (6, 2, 5, 5),
    ),
    "conv_dilated": (
        lambda: sk.Conv2dReLU(2, 4, (3, 2), dilation=(1, 2), bias=False),
        lambda: nn.Conv2d(2, 4, (3, 2), dilation=(1, 2), bias=False),
        (6, 2, 5, 5),
    ),
}


def twins(name, dtype=torch.float64, device="cpu"):
    """The fused module and the same from torch.nn, with the same parameters, and an input."""
    fused, layer, shape = MODULES[name]
    fused, plain = fused().to(device, dtype), nn.Sequential(layer(), nn.ReLU()).to(device, dtype)
    plain[0].load_state_dict(fused.state_dict())
    return fused, plain, torch.randn(shape, dtype=dtype, device=device)


@pytest.mark.parametrize("name", MODULES)
def test_algorithm_1_runs_through_the_modules(backend, name):
    """The published step, unchanged, gives the same with fused layers; two of them, so that gradients flow between."""
    fused, plain, x = twins(name, device=device_of(backend))
    y, delta_pre = torch.randint(3, (6,), device=x.device), torch.randn_like(x)
    results = []
    for body in (fused, plain):
        torch.manual_seed(1)
        with torch.no_grad():
            features = body(x).flatten(1).shape[1]
        last = sk.LinearReLU(features, 7) if body is fused else nn.Sequential(nn.Linear(features, 7), nn.ReLU())
        last, linear = last.to(x), nn.Linear(7, 3).to(x)
        stack = nn.Sequential(body, nn.Flatten(), last)
        with sk.backend(backend):
            step = reference.algorithm1_step(
                stack, lambda f, y, linear=linear: F.cross_entropy(linear(f), y), x, y, delta_pre, weight=50.0
            )
        results.append([*step, *(p.grad for p in [*stack.parameters(), *linear.parameters()])])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_those_of_torch_nn(name):
    fused, plain, x = twins(name)
    assert isinstance(fused, type(plain[0]))
    assert fused.state_dict().keys() == plain[0].state_dict().keys()
    torch.testing.assert_close(fused(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODULES)
def test_autocast_does_what_it_does_to_plain_layers(backend, name, dtype):
    fused, plain, x = twins(name, torch.float32, device_of(backend))
    results = []
    for module in (fused, plain):
        leaf = x.clone().requires_grad_()
        with sk.backend(backend):
            with torch.autocast(x.device.type, dtype):
                output = module(leaf)
            output.float().square().sum().backward()
        results.append([output, leaf.grad, *(p.grad for p in module.parameters())])
    assert results[0][0].dtype == dtype
    assert torch.equal(results[0][0], results[1][0])
    for mine, theirs in zip(*results, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs)


def test_autocast_leaves_float64_alone(backend):
    fused, plain, x = twins("linear", device=device_of(backend))
    with sk.backend(backend), torch.autocast(x.device.type, torch.bfloat16):
        assert fused(x).dtype == torch.float64


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["linear", "conv"])
def test_compiles_as_one_graph(backend, name, dynamic):
    torch._dynamo.reset()
    fused, plain, x = twins(name, torch.float32, device_of(backend))
    compiled = torch.compile(lambda x: fused(x).square().sum(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    parameters = list(fused.parameters())
    with sk.backend(backend):
        for batch in (6, 4):
            leaf = x[:batch].clone().requires_grad_()
            expected = torch.autograd.grad(plain(leaf).square().sum(), [leaf, *plain.parameters()])
            result = torch.autograd.grad(compiled(leaf), [leaf, *parameters])
            for mine, theirs in zip(result, expected, strict=True):
                torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("case", [CASES["linear"], CASES["conv"]], ids=["linear", "conv"])
def test_a_third_derivative_is_refused(backend, case):
    """The double backward holds no graph: a silent zero would be wrong."""
    tensors = case.tensors(device=device_of(backend))
    with sk.backend(backend):
        first = torch.autograd.grad(case.mine(*tensors).square().sum(), tensors[0], create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), tensors[1], create_graph=True)[0]
        with pytest.raises(RuntimeError, match="no derivative"):
            second.sum().backward()


class Spy(TorchDispatchMode):
    """Records the calls of operators whose name contains ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.calls = name, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.name in str(function):
            self.calls.append(args)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("case", [CASES["linear"], CASES["conv"]], ids=["linear", "conv"])
def test_only_what_is_asked_for_is_computed(case, create_graph):
    """Algorithm 1 first wants the gradient of x alone: the product for the weight would be for nothing."""
    tensors = case.tensors()
    for wanted in ([0], [1], [2], [0, 1], [0, 1, 2]):
        output = case.mine(*tensors)
        with Spy("relu_backward") as spy:
            torch.autograd.grad(output.sum(), [tensors[i] for i in wanted], create_graph=create_graph)
        [layer] = [args for args in spy.calls if len(args) > 3]
        assert layer[4] == [index in wanted for index in range(3)]


@pytest.mark.parametrize("case", [CASES["linear"], CASES["conv"]], ids=["linear", "conv"])
def test_only_what_is_asked_for_is_computed_behind_another_layer(case):
    """The same where x is no leaf: the engine knows which nodes it will run."""
    tensors = case.tensors()
    x = tensors[0] * 2
    output = case.mine(x, *tensors[1:])
    for sources, expected in ((tensors[:1], [True, False, False]), (tensors[1:2], [False, True, False])):
        with Spy("relu_backward") as spy:
            torch.autograd.grad(output.sum(), sources, retain_graph=True)
        [layer] = [args for args in spy.calls if len(args) > 3]
        assert layer[4] == expected


@pytest.mark.parametrize("case", [CASES["linear"], CASES["conv"]], ids=["linear", "conv"])
def test_only_what_is_asked_for_is_computed_in_a_double_backward(case):
    """Of the three that have a gradient: that of the output, x and the weight."""
    tensors = case.tensors()
    output = case.mine(*tensors)
    upstream = torch.randn_like(output).requires_grad_()
    grads = torch.autograd.grad(output, tensors[:2], upstream, create_graph=True)
    loss = sum(grad.square().sum() for grad in grads)
    sources = (upstream, *tensors[:2])
    expected = torch.autograd.grad(loss, sources, retain_graph=True)
    for index, source in enumerate(sources):
        with Spy("relu_double_backward") as spy:
            [found] = torch.autograd.grad(loss, source, retain_graph=True)
        [wanted] = {tuple(args[7]) for args in spy.calls}
        assert wanted == tuple(i == index for i in range(3))
        torch.testing.assert_close(found, expected[index])


def test_accumulating_into_leaves_computes_everything():
    tensors = CASES["linear"].tensors()
    with Spy("relu_backward") as spy:
        CASES["linear"].mine(*tensors).sum().backward()
    [layer] = [args for args in spy.calls if len(args) > 3]
    assert layer[4] == [True, True, True]
    assert all(t.grad is not None for t in tensors)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_saves_the_input_the_weight_and_the_output_alone(case):
    tensors = case.tensors()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output = case.mine(*tensors)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (tensors[0], tensors[1], output)}
    assert len(saved) == 3


def test_nan_shows(backend):
    """In the output, and in the gradients behind an output that is NaN."""
    x, weight, bias = CASES["linear"].tensors(device=device_of(backend))
    with torch.no_grad():
        x[0, 0] = torch.nan
    with sk.backend(backend):
        output = sk.linear_relu(x, weight, bias)
        output.sum().backward()
    assert output[0].isnan().all() and output[1:].isfinite().all()
    assert weight.grad[:, 0].isnan().all()
    # a gate that is NaN lets the gradient pass, as in plain torch
    plain = torch.autograd.grad(F.relu(F.linear(x, weight, bias)).sum(), x)[0]
    torch.testing.assert_close(x.grad, plain)


def test_nan_in_the_gradient_passes_open_gates_only(backend):
    grad = torch.full((4, 3), torch.nan, device=device_of(backend))
    output = torch.tensor([1.0, 0.0, 2.0], device=grad.device).expand(4, 3)
    with sk.backend(backend):
        masked, sums = gate(grad, output, True)
    assert masked[:, [0, 2]].isnan().all() and masked[:, 1].eq(0).all()
    assert sums[[0, 2]].isnan().all() and sums[1] == 0


@pytest.mark.parametrize("case", [CASES["linear"], CASES["conv"]], ids=["linear", "conv"])
def test_empty_batch(backend, case):
    x, weight, bias = case.tensors(device=device_of(backend))
    x = x.detach()[:0].requires_grad_()
    with sk.backend(backend):
        output = case.mine(x, weight, bias)
        gradients = torch.autograd.grad(output, [x, weight, bias], torch.zeros_like(output), create_graph=True)
        second = torch.autograd.grad(gradients[0].sum(), weight)[0]
    assert output.shape[0] == 0 and gradients[0].shape == x.shape
    assert not gradients[1].any() and not gradients[2].any() and not second.any()


OPCHECKS = [("linear", dtype) for dtype in DTYPES]
OPCHECKS += [("conv", torch.float64), ("conv", torch.float16), ("conv_channels_last", torch.bfloat16)]  # slow


@pytest.mark.parametrize(("name", "dtype"), OPCHECKS)
def test_opcheck(name, dtype):
    case = LARGE[name]
    name = "conv2d_relu" if case.is_conv else "linear_relu"
    forward, backward = getattr(operators_on("cpu"), name), getattr(operators_on("cpu"), f"{name}_backward")
    double = getattr(operators_on("cpu"), f"{name}_double_backward")
    tensors = case.tensors(dtype, requires_grad=False)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | case.options if case.is_conv else {}
    geometry = [value if key == "groups" else [value, value] for key, value in options.items()]
    output = forward(*tensors, *geometry)
    grad, directions = torch.randn_like(output), randn_like(tensors)
    wanted = [True, True, True]
    for requires_grad in (False, True):
        leaves = [t.clone().requires_grad_(requires_grad) for t in tensors]
        torch.library.opcheck(forward, (*leaves, *geometry))
        upstream = grad.clone().requires_grad_(requires_grad)
        torch.library.opcheck(backward, (upstream, output, *leaves[:2], wanted, *geometry))
    torch.library.opcheck(double, (*directions, grad, output, *tensors[:2], wanted, *geometry))
    first = (directions[0], None, None)  # Algorithm 1: along the input only
    torch.library.opcheck(double, (*first, grad, output, *tensors[:2], [False, False, True], *geometry))


@pytest.mark.skipif(not KERNEL_BACKENDS, reason="only the reference backend runs here")
@pytest.mark.parametrize("name", KERNEL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_of_the_gate(name, dtype):
    operator = operators_on(name).relu_backward
    for shape in ((6, 7, 1), (2, 3, 10)):
        grad, output = torch.randn(2, *shape, device=device_of(name)).to(dtype).unbind(0)
        for sums in (False, True):
            torch.library.opcheck(operator, (grad, output, sums))


GATE_SHAPES = [(1, 1), (7, 5), (1000, 3), (3, 1000), (40, 65), (2, 3, 5), (4, 3, 2, 5), (33, 2, 1, 1), (2, 70, 3, 3)]


def gate_layouts(tensor):
    """Other layouts of the same values; the strided ones need a copy."""
    wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0)
    wide[..., ::2] = tensor
    batch_last = tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    views = {"contiguous": tensor, "strided": wide[..., ::2], "batch_last": batch_last}
    if tensor.dim() == 4:
        views["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    return views


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", GATE_SHAPES)
def test_gate_is_that_of_plain_torch(backend, shape, dtype):
    """Masked values bit by bit; sums by the error rule, against torch's own in the dtype of the gradient."""
    grad, output = torch.randn(2, *shape, dtype=torch.float64).to(device_of(backend), dtype).unbind(0)
    output = output.relu()
    expected = torch.where(output > 0, grad, 0.0)
    other = [dim for dim in range(len(shape)) if dim != (1 if len(shape) == 4 else len(shape) - 1)]
    for grad_view in gate_layouts(grad).values():
        for output_view in gate_layouts(output).values():
            with sk.backend(backend):
                masked, sums = gate(grad_view, output_view, True)
                again, none = gate(grad_view, output_view, False)
            assert none is None and torch.equal(masked, expected) and torch.equal(again, expected)
            assert sums.dtype == loss_dtype(grad)
            any_order = any_order_sum_error(expected, other, sums.dtype if backend == "reference" else torch.float64)
            assert_as_exact_as(sums, expected.sum(other), upcast(expected).sum(tuple(other)), any_order)


def test_gate_keeps_the_layout_of_the_output(backend):
    output = torch.randn(2, 3, 4, 5, device=device_of(backend)).contiguous(memory_format=torch.channels_last)
    with sk.backend(backend):
        masked, _ = gate(torch.randn_like(output).contiguous(), output, False)
    assert masked.stride() == output.stride()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (2, 0, 4), (2, 3, 0, 4)])
def test_gate_of_nothing(backend, shape):
    empty = torch.empty(shape, device=device_of(backend))
    with sk.backend(backend):
        masked, sums = gate(empty, empty, True)
    assert masked.shape == shape
    assert sums.shape == (shape[1 if len(shape) == 4 else -1],) and not sums.any()


def test_gate_takes_an_expanded_gradient(backend):
    """The gradient of a sum or of a pooling has stride 0."""
    output = torch.randn(4, 3, 5, 5, device=device_of(backend))
    grad = torch.randn(4, 3, 1, 1, device=output.device).expand_as(output)
    with sk.backend(backend):
        masked, sums = gate(grad, output, True)
    assert torch.equal(masked, torch.where(output > 0, grad, 0.0))
    torch.testing.assert_close(sums, masked.sum((0, 2, 3)))


@pytest.mark.parametrize("shape", [(5000, 33), (7, 3000), (9, 17, 31, 29)])
def test_gate_is_reproducible_for_any_number_of_threads(backend, shape):
    if backend == "reference":
        pytest.skip("torch's own sums depend on the number of threads")
    grad, output = torch.randn(2, *shape, device=device_of(backend)).unbind(0)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with sk.backend(backend):
                results.append(gate(grad, output, True))
    finally:
        torch.set_num_threads(threads)
    for masked, sums in results[1:]:
        assert torch.equal(masked, results[0][0]) and torch.equal(sums, results[0][1])


def test_sums_of_many_half_numbers_are_exact(backend):
    """Sums in float16 would stop growing at 2048; in bfloat16 at 256."""
    for dtype in (torch.float16, torch.bfloat16):
        ones = torch.ones(10_001, 3, dtype=dtype, device=device_of(backend))
        with sk.backend(backend):
            _, sums = gate(ones, ones, True)
        assert sums.eq(10_001).all()


X, W, B = torch.randn(4, 6), torch.randn(5, 6), torch.randn(5)
IMAGE, KERNEL = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (sk.linear_relu, (X, W[:, :5]), ValueError, r"weight must have shape \(m, 6\) for x \(4, 6\), got \(5, 5\)"),
        (sk.linear_relu, (X, W[0]), ValueError, r"weight must have shape \(m, 6\)"),
        (sk.linear_relu, (X[0], W), ValueError, r"x must have a batch dimension, got shape \(6,\)"),
        (sk.linear_relu, (X, W, B[:4]), ValueError, r"bias must have shape \(5,\), got \(4,\)"),
        (sk.linear_relu, (X, W, B[:, None]), ValueError, r"bias must have shape \(5,\), got \(5, 1\)"),
        (sk.linear_relu, (X, W.double()), TypeError, "weight must have the dtype of x .*float32, got torch.float64"),
        (sk.linear_relu, (X, W, B.half()), TypeError, "bias must have the dtype of x .*float32, got torch.float16"),
        (sk.linear_relu, (X.int(), W), TypeError, "x must be float64, .* got torch.int32"),
        (sk.linear_relu, (X, W.to("meta")), ValueError, "weight must be on the device of x cpu, got meta"),
        (sk.conv2d_relu, (IMAGE[0], KERNEL), ValueError, r"x must have shape \(B, C, H, W\), got \(4, 6, 6\)"),
        (sk.conv2d_relu, (IMAGE, KERNEL[:, :3]), ValueError, r"weight must have shape \(m, 4 / groups, kH, kW\)"),
        (sk.conv2d_relu, (IMAGE, KERNEL[0]), ValueError, r"weight must have shape .* got \(4, 3, 3\)"),
        (sk.conv2d_relu, (IMAGE, KERNEL[:, :2], None, 1, 0, 1, 2), ValueError, "m divisible by groups=2"),
        (sk.conv2d_relu, (IMAGE, KERNEL, None, 1, "same"), ValueError, "padding must be .*, got 'same'"),
        (sk.conv2d_relu, (IMAGE, KERNEL.double()), TypeError, "weight must have the dtype of x"),
        (sk.conv2d_relu, (IMAGE, KERNEL, B[:3]), ValueError, r"bias must have shape \(5,\), got \(3,\)"),
    ],
)
def test_refuses(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"padding": "same"}, "padding must be a number"), ({"padding_mode": "circular"}, "padding_mode must be 'zeros'")],
)
def test_module_refuses_what_it_would_do_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        sk.Conv2dReLU(2, 3, 3, **options)


def test_modules_can_be_copied():
    fused, _, x = twins("conv")
    torch.testing.assert_close(copy.deepcopy(fused)(x), fused(x))


def test_gate_is_counted_from_the_output():
    """Zeros of the pre-activation are closed, as in torch; the sign of a zero does not matter."""
    output = torch.tensor([[0.0, -0.0, 1e-45, 1.0]])
    masked, _ = gate(torch.ones_like(output), output, False)
    np.testing.assert_array_equal(masked, [[0.0, 0.0, 1.0, 1.0]])
