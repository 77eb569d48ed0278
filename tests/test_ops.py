"""The functions of the residual in compiled code, and graphs they leave. test_every_operator.py has the operators."""

from __future__ import annotations

import pytest
import torch
from helpers import device_of

import sgr_kernels as sk
from sgr_kernels.operators.sgr_loss import sgr_loss

BACKENDS = [name for name, status in sk.backends().items() if status == "ok"]
KERNELS = [name for name in BACKENDS if name != "reference"]


def rows(backend: str, dtype=torch.float32, requires_grad: bool = False):
    pair = torch.randn(2, 4, 33, device=device_of(backend)).to(dtype).unbind(0)
    return [t.clone().requires_grad_(requires_grad) for t in pair]


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


def test_residual_leaves_no_graph(backend):
    delta, target = rows(backend, requires_grad=True)
    with sk.backend(backend):
        loss, v = sk.sgr_residual(delta, target)
    assert loss.grad_fn is None
    assert v.grad_fn is None
