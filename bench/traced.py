"""Algorithm 1 in its strongest published form: forward, backward and double backward traced as one function, compiled.

``torch.compile`` refuses a double backward, but it takes a graph that already holds one and has no autograd left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch._inductor.config
import torch.nn.functional as F
from sgr_train.networks.network import LocalModule
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checks import require_error_below
from .micro.sgr_loss import eager as published_residual
from .stored import PUBLISHED
from .ways import ALLOWED, WAYS, WEIGHT, Inputs, gradient, module_inputs


def compiled_algorithm1(network: Sequence[LocalModule], x: Tensor, y: Tensor) -> Callable[[], None]:
    """Compiles a step on inputs of these shapes; what comes back runs it and sets ``.grad``.

    Raises:
        WrongResult: its SGR gradients are not those of Algorithm 1.
    """
    steps = []
    for module, inputs in zip(network, module_inputs(network, x, y), strict=True):
        steps.append(_compile(module, inputs))
        if inputs.delta_pre is not None:
            _check(steps[-1], module, inputs)
        module.zero_grad()

    def run() -> None:
        features, delta_pre = x, None
        for step in steps:
            features, delta_pre = step(Inputs(features, y, delta_pre))

    return run


Step = Callable[..., tuple[Tensor, Tensor]]  # of Inputs and a weight


class _Forward(nn.Module):
    """Output and local loss, in operators that the compiler can fuse."""

    def __init__(self, module: LocalModule) -> None:
        super().__init__()
        self.body, self.head = module.body, module.head

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        output = self.body(x)
        return output, F.cross_entropy(self.head.logits(output), y)


def _check(step: Step, module: LocalModule, inputs: Inputs) -> None:
    """With a weight at which the SGR term is not lost in the rounding of the rest, which is that of other kernels."""
    weight = 1000 * WEIGHT
    torch.manual_seed(0)  # the same dropout
    step(inputs, weight)
    compiled = gradient(module)
    module.zero_grad()
    torch.manual_seed(0)
    published = WAYS[PUBLISHED]._replace(options={**WAYS[PUBLISHED].options, "weight": weight}).make()
    published.module_step(module, *inputs, last=True)
    require_error_below(ALLOWED["float32"], "Algorithm 1, compiled,", compiled, gradient(module))


def _compile(module: LocalModule, inputs: Inputs) -> Step:
    """The step of one module. It gives the output and the gradient for it."""
    forward = _Forward(module)
    parameters, buffers = dict(forward.named_parameters()), dict(forward.named_buffers())

    def step(weight: Tensor, parameters, buffers, x: Tensor, y: Tensor, delta_pre: Tensor | None):
        parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        x = x.detach().requires_grad_(delta_pre is not None)
        output, loss = torch.func.functional_call(forward, (parameters, buffers), (x, y))
        if delta_pre is None:
            delta_out, *gradients = torch.autograd.grad(loss, [output, *parameters.values()], allow_unused=True)
        else:
            delta_out, delta_now = torch.autograd.grad(loss, [output, x], create_graph=True)
            sgr = published_residual(delta_now.flatten(1), delta_pre.flatten(1))
            gradients = torch.autograd.grad(loss + weight * sgr, list(parameters.values()), allow_unused=True)
        return output.detach(), delta_out.detach(), gradients

    with sdpa_kernel(SDPBackend.MATH):  # attention that can be differentiated twice
        graph = make_fx(step)(torch.tensor(WEIGHT, device=inputs.x.device), parameters, buffers, *inputs)
    # Random numbers as torch draws them, so that the result can be compared with that of the engines.
    compiled = torch.compile(graph, fullgraph=True, options={"fallback_random": True})

    @torch.no_grad()
    def run(inputs: Inputs, weight: float = WEIGHT) -> tuple[Tensor, Tensor]:
        output, delta_out, gradients = compiled(
            torch.tensor(weight, device=inputs.x.device), parameters, buffers, *inputs
        )
        for parameter, grad in zip(parameters.values(), gradients, strict=True):
            parameter.grad = grad
        return output, delta_out

    run(inputs)
    return run
