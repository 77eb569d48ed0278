"""Algorithm 1 as published: a double backward through the module. Works for every twice differentiable module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..functional.sgr_loss import loss as sgr_loss
from .common import LocalStep, Settings, add_gradients, check_scalar, in_one_precision, trainable, unscale


def local_step(
    body: nn.Module,
    head: nn.Module | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta_pre: Tensor | None,
    settings: Settings,
) -> LocalStep:
    """See :func:`sgr_kernels.local_step`; arguments are checked there."""
    reconcile = delta_pre is not None
    with torch.enable_grad():
        x = x.detach().requires_grad_(reconcile)
        output = body(x)
        if not output.requires_grad:  # a body without parameters, in the first module
            output = output.detach().requires_grad_()
        loss = head(output, y)
        check_scalar(loss)
        scaled = settings.grad_scale * loss
        parameters = trainable((body, head), loss)
        sgr = None
        if reconcile:
            scaled_now, scaled_out = _input_gradients(scaled, x, output, settings.need_delta_out)
            delta_now, delta_pre = in_one_precision(unscale(scaled_now, settings.grad_scale), delta_pre)
            sgr = sgr_loss(delta_now, delta_pre, settings.options(delta_now))
            total = scaled + settings.grad_scale * settings.weight * sgr
            gradients = torch.autograd.grad(total, parameters, allow_unused=True) if parameters else ()
        else:
            inputs = [*parameters, output] if settings.need_delta_out else parameters
            gradients = torch.autograd.grad(scaled, inputs, allow_unused=True) if inputs else ()
            scaled_out = gradients[-1] if settings.need_delta_out else None
            gradients = gradients[: len(parameters)]
    add_gradients(parameters, gradients)
    delta_out = None if scaled_out is None else unscale(scaled_out.detach(), settings.grad_scale)
    return LocalStep(loss.detach(), None if sgr is None else sgr.detach(), output.detach(), delta_out)


def _input_gradients(scaled: Tensor, x: Tensor, output: Tensor, need_delta_out: bool) -> tuple[Tensor, Tensor | None]:
    """Differentiable gradient of the scaled loss for x, and the one for the output if it is wanted."""
    wanted = [x, output] if need_delta_out else [x]
    gradients = torch.autograd.grad(scaled, wanted, create_graph=True)
    return gradients[0], gradients[1] if need_delta_out else None
