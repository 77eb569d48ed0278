"""The registered operators: opcheck, compilation, refusal to be differentiated where they must not be."""

from __future__ import annotations

import pytest
import torch
from helpers import DTYPES, device_of, operators_on

import sgr_kernels as sk
from sgr_kernels.operators.sgr_loss import sgr_loss

BACKENDS = [name for name, status in sk.backends().items() if status == "ok"]
KERNELS = [name for name in BACKENDS if name != "reference"]


def rows(backend: str, dtype=torch.float32, requires_grad: bool = False):
    pair = torch.randn(2, 4, 33, device=device_of(backend)).to(dtype).unbind(0)
    return [t.clone().requires_grad_(requires_grad) for t in pair]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(name, dtype):
    op = operators_on(name)
    device = device_of(name)
    for requires_grad in (False, True):
        delta, target = rows(name, dtype, requires_grad)
        torch.library.opcheck(op.sgr_loss, (delta, target, True, 1, 0.0, None, 1e-12))
    floor = torch.tensor(1.0, dtype=torch.float64, device=device)
    delta, target = rows(name, dtype)
    torch.library.opcheck(op.sgr_loss, (delta, target, False, 0, 0.0, floor, 1e-12))
    torch.library.opcheck(op.sgr_residual, (delta, target, True, 2, 0.5, None, 1e-12))
    grad = torch.ones((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=device)
    alpha, beta = torch.randn(2, 4, dtype=torch.float64, device=device).unbind(0)
    torch.library.opcheck(op.sgr_loss_backward, (grad, delta, target, alpha, beta))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(name, dynamic):
    torch._dynamo.reset()
    function = torch.compile(
        lambda d, g: 3 * sk.sgr_loss(d, g, reduction="batchmean"), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    with sk.backend(name):
        for shape in ((4, 3, 7), (5, 3, 9)):
            delta, target = torch.randn(2, *shape, device=device_of(name)).unbind(0)
            delta.requires_grad_()
            (expected,) = torch.autograd.grad(3 * sk.sgr_loss(delta, target, reduction="batchmean"), delta)
            (result,) = torch.autograd.grad(function(delta, target), delta)
            torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", KERNELS)
def test_compiled_code_follows_the_requested_backend(name):
    torch._dynamo.reset()
    delta, target = rows(name)
    seen = []

    def spy(graph, inputs):
        seen.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return graph.forward

    function = torch.compile(sk.sgr_loss, fullgraph=True, backend=spy)
    for request in (name, "reference"):
        with sk.backend(request):
            function(delta, target)
    for request, nodes in zip((name, "reference"), seen, strict=True):
        operators = {str(sgr_loss.overload(backend)) for backend in (name, "reference")}
        assert operators & nodes == {str(sgr_loss.overload(request))}


@pytest.mark.parametrize("name", BACKENDS)
def test_operators_without_a_derivative_say_so(name):
    op = operators_on(name)
    delta, target = rows(name, requires_grad=True)
    _, v = op.sgr_residual(delta, target, True, 0, 0.0, None, 1e-12)
    with pytest.raises(RuntimeError, match="no derivative"):
        v.sum().backward()


def test_residual_leaves_no_graph(backend):
    delta, target = rows(backend, requires_grad=True)
    with sk.backend(backend):
        loss, v = sk.sgr_residual(delta, target)
    assert loss.grad_fn is None
    assert v.grad_fn is None
