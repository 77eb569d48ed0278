"""What torch makes of the functions that users call: torch.func, forward mode, torch.export, torch.fx and torch.jit.

Every transform is compared with the same transform of the formula as a user of PyTorch writes it, in float64.
"""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from helpers import device_of, plain_sgr_loss
from torch import nn
from torch.autograd import forward_ad

import sgr_kernels as sk

LABELS = torch.tensor([0, 2, 1, 2])
# Ours, the plain formula, and the shapes of its two arguments
FUNCTIONS = {
    "sgr_loss": (
        lambda x, w: sk.sgr_loss(x, w, reduction="batchmean"),
        lambda x, w: plain_sgr_loss(x, w, reduction="batchmean"),
        ((4, 3, 2), (4, 3, 2)),
    ),
    "cross_entropy": (
        lambda x, w: sk.cross_entropy(x @ w.T, LABELS.to(x.device)),
        lambda x, w: F.cross_entropy(x @ w.T, LABELS.to(x.device)),
        ((4, 4), (3, 4)),
    ),
    "linear_relu": (
        lambda x, w: sk.linear_relu(x, w, w.sum(1)).square().sum(),
        lambda x, w: F.linear(x, w, w.sum(1)).relu().square().sum(),
        ((4, 4), (3, 4)),
    ),
    "conv2d_relu": (
        lambda x, w: sk.conv2d_relu(x, w, padding=1).square().sum(),
        lambda x, w: F.conv2d(x, w, padding=1).relu().square().sum(),
        ((2, 3, 4, 4), (2, 3, 3, 3)),
    ),
}


def double_backward(function, x, w):
    """The gradient of the norm of a gradient: what Algorithm 1 takes."""
    return torch.func.grad(lambda w: torch.func.grad(function)(x, w).square().sum())(w)


def dual(function, x, w):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, w.sum() + x), w)).tangent


def batched_gradients(function, x, w):
    """What jacobian(vectorize=True) does: a graph of ordinary autograd, and torch.vmap over its backward pass."""
    leaf = x.detach().requires_grad_()
    value = function(leaf, w)
    scales = torch.arange(1.0, 4.0, dtype=value.dtype, device=value.device)
    return torch.autograd.grad(value, leaf, scales, is_grads_batched=True)[0]


TRANSFORMS = {
    "grad": lambda f, x, w: torch.cat([g.flatten() for g in torch.func.grad(f, argnums=(0, 1))(x, w)]),
    "vmap": lambda f, x, w: torch.vmap(f)(torch.stack([x, x.exp()]), torch.stack([w, w.exp()])),
    "vmap of one": lambda f, x, w: torch.vmap(f, (None, 0))(x, torch.stack([w, w.exp()])),
    "vmap of grad": lambda f, x, w: torch.vmap(torch.func.grad(f), (0, None))(torch.stack([x, x.exp()]), w),
    "jvp": lambda f, x, w: torch.func.jvp(f, (x, w), (x.exp(), w.exp()))[1],
    "jacrev": lambda f, x, w: torch.func.jacrev(f, 1)(x, w),
    "jacfwd": lambda f, x, w: torch.func.jacfwd(f)(x, w),
    "hessian": lambda f, x, w: torch.func.hessian(f)(x, w),
    "double backward": double_backward,
    "forward mode": dual,
    "batched gradients": batched_gradients,
}


def on(backend, function):
    def call(*tensors):
        with sk.backend(backend):
            return function(*tensors)

    return call


@pytest.fixture(params=FUNCTIONS)
def case(request, backend):
    """Ours, the plain formula and two arguments."""
    ours, plain, shapes = FUNCTIONS[request.param]
    return on(backend, ours), plain, [torch.randn(shape, device=device_of(backend)).double() for shape in shapes]


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_are_those_of_the_formula(case, transform):
    ours, plain, tensors = case
    expected = transform(plain, *tensors)
    assert expected.any()
    torch.testing.assert_close(transform(ours, *tensors), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_transforms_are_those_of_the_formula(backend, name, transform):
    ours, plain, shapes = FUNCTIONS[name]
    tensors = [torch.randn(shape, device=device_of(backend)).double() for shape in shapes]
    transform = TRANSFORMS[transform]
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: transform(ours, *args), fullgraph=True, backend="aot_eager")
    with sk.backend(backend):
        result = compiled(*tensors)
    torch.testing.assert_close(result, transform(plain, *tensors), rtol=1e-10, atol=1e-12)


def test_floor_and_dead_rows_are_constants_of_every_transform(backend):
    """The formula has neither, so forward mode is held against ordinary gradients."""
    delta, target, direction = torch.randn(3, 5, 7, device=device_of(backend)).double()
    delta[0], target[1] = 0.0, 0.0
    function = on(backend, lambda x: sk.sgr_loss(x, target, floor=3.0, reduction="sum"))
    (gradient,) = torch.autograd.grad(function(leaf := delta.clone().requires_grad_()), leaf)
    assert gradient[2:].any(1).all() and not gradient[:2].any()
    _, tangent = torch.func.jvp(function, (delta,), (direction,))
    torch.testing.assert_close(tangent, (gradient * direction).sum())
    torch.testing.assert_close(torch.func.grad(function)(delta), gradient)


def test_transforms_without_kernels_go_by_what_is_on_a_default_device():
    """A default device is a function mode, and modes see operators as torch knows them."""
    x, w = torch.randn(2, 4, 3).double().unbind(0)
    with torch.device("cpu"):
        result = torch.func.jvp(lambda x: sk.sgr_loss(x, w), (x,), (x.exp(),))[1]
    torch.testing.assert_close(result, torch.func.jvp(lambda x: plain_sgr_loss(x, w), (x,), (x.exp(),))[1])


# --- graphs of calls --------------------------------------------------------------------------------------------------


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sgr = sk.SGRLoss(0.3, reduction="batchmean", floor=0.1)

    def forward(self, delta, target):
        loss, v = sk.sgr_residual(delta, target)
        return self.sgr(delta, target) + loss + v.sum()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(sk.Conv2dReLU(3, 4, 3), nn.Flatten(), sk.LinearReLU(16, 8))
        self.head = sk.CrossEntropyHead(sk.ETFClassifier(3, 8))

    def forward(self, x, labels):
        return self.head(self.body(x), labels)


def loss_case(batch):
    return torch.randn(batch, 3, 2, requires_grad=True), torch.randn(batch, 3, 2)


def net_case(batch):
    return torch.randn(batch, 3, 4, 4, requires_grad=True), torch.randint(3, (batch,))


GRAPHS = {"loss": (Loss, loss_case), "net": (Net, net_case)}


def outcome(function, first, second):
    value = function(first, second)
    return value.detach(), torch.autograd.grad(value, first)[0]


@pytest.fixture(params=GRAPHS)
def graph_case(request):
    """A module and a function that makes its arguments for a batch size."""
    make, arguments = GRAPHS[request.param]
    return make(), arguments


def test_torch_fx(graph_case):
    module, arguments = graph_case
    traced = torch.fx.symbolic_trace(module)
    ours = {
        node.target for node in traced.graph.nodes if node.op == "call_function" and "sgr" in node.target.__module__
    }
    assert ours
    for batch in 4, 6:
        given = arguments(batch)
        torch.testing.assert_close(outcome(traced, *given), outcome(module, *given), rtol=0, atol=0)


def test_torch_fx_by_keyword_and_with_a_constant_first():
    delta, weight = torch.randn(4, 3), torch.randn(2, 3)
    traced = torch.fx.symbolic_trace(lambda target: sk.sgr_residual(delta, target=target)[1])
    assert torch.equal(traced(delta.exp()), sk.sgr_residual(delta, delta.exp())[1])
    traced = torch.fx.symbolic_trace(lambda x: sk.linear_relu(weight=weight, x=x))
    assert torch.equal(traced(delta), sk.linear_relu(delta, weight))


def test_torch_jit_trace(graph_case):
    module, arguments = graph_case
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, arguments(4)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for batch in 4, 6:
        given = arguments(batch)
        torch.testing.assert_close(outcome(loaded, *given), outcome(module, *given), rtol=0, atol=0)


def test_torch_export(case, backend):
    ours, _, tensors = case

    class Model(nn.Module):
        def forward(self, *tensors):
            return ours(*tensors)

    program = torch.export.export(Model(), tuple(tensors))
    with sk.backend("reference"):  # the choice was made
        torch.testing.assert_close(program.module()(*tensors), ours(*tensors), rtol=0, atol=0)


def user_function(x, w):
    return sk.linear_relu(x, w)


@pytest.mark.parametrize(
    "program",
    [Loss, Net, sk.SGRLoss, lambda: sk.LinearReLU(3, 4), lambda: nn.Sequential(sk.Conv2dReLU(3, 4, 1)),
     *(lambda f=f: f for f in (sk.sgr_loss, sk.sgr_residual, sk.linear_relu, sk.cross_entropy, user_function))],
)  # fmt: skip
def test_torch_jit_script_says_what_to_use_instead(program):
    message = r"^torch.jit.script cannot compile sgr_kernels; use torch.compile or torch.export$"
    with pytest.raises(NotImplementedError, match=message):
        torch.jit.script(program())
