"""Algorithm 1 in its strongest published form: forward, backward and double backward traced as one function, compiled.

``torch.compile`` refuses a double backward, but it takes a graph that already holds one and has no autograd left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .methods import WEIGHT, Inputs, Modules, module_inputs
from .networks import LocalModule


def compiled_algorithm1(modules: Modules, x: Tensor, y: Tensor) -> Callable[[], None]:
    """Compiles a step on inputs of these shapes; what comes back runs it and sets ``.grad``."""
    steps = [_compile(module, inputs) for module, inputs in zip(modules, module_inputs(modules, x, y), strict=True)]

    def run() -> None:
        features, delta_pre = x, None
        for step in steps:
            features, delta_pre = step(Inputs(features, y, delta_pre))

    return run


class _Forward(nn.Module):
    """Output and local loss, in operators that the compiler can fuse."""

    def __init__(self, module: LocalModule) -> None:
        super().__init__()
        self.body, self.head = module

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        output = self.body(x)
        return output, F.cross_entropy(self.head.logits(output), y)


def _compile(module: LocalModule, inputs: Inputs) -> Callable[[Inputs], tuple[Tensor, Tensor]]:
    """The step of one module. It gives the output and the gradient for it."""
    forward = _Forward(module)
    parameters, buffers = dict(forward.named_parameters()), dict(forward.named_buffers())

    def step(parameters, buffers, x: Tensor, y: Tensor, delta_pre: Tensor | None):
        parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        x = x.detach().requires_grad_(delta_pre is not None)
        output, loss = torch.func.functional_call(forward, (parameters, buffers), (x, y))
        if delta_pre is None:
            delta_out, *gradients = torch.autograd.grad(loss, [output, *parameters.values()], allow_unused=True)
        else:
            delta_out, delta_now = torch.autograd.grad(loss, [output, x], create_graph=True)
            sgr = F.mse_loss(_unit_rows(delta_now), _unit_rows(delta_pre))
            gradients = torch.autograd.grad(loss + WEIGHT * sgr, list(parameters.values()), allow_unused=True)
        return output.detach(), delta_out.detach(), gradients

    with _math_attention():
        graph = make_fx(step)(parameters, buffers, *inputs)
    # Random numbers as torch draws them, so that the result can be compared with that of the engines.
    compiled = torch.compile(graph, fullgraph=True, options={"fallback_random": True})

    @torch.no_grad()
    def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
        output, delta_out, gradients = compiled(parameters, buffers, *inputs)
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        return output, delta_out

    run(inputs)
    return run


@contextlib.contextmanager
def _math_attention() -> Iterator[None]:
    """Attention that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def _unit_rows(delta: Tensor) -> Tensor:
    rows = delta.flatten(1)
    return rows / rows.square().sum(1, keepdim=True).sqrt()
