"""Algorithm 1 as published: a double backward through the module. Works for every twice differentiable module."""

import torch

from ..functional.sgr_loss import loss as sgr_loss
from .common import (
    LocalStep,
    StepInputs,
    StepOptions,
    add_gradients,
    in_wider_dtype,
    leaves_of,
    loss_of,
    output_of,
    unscale,
)


def run(inputs: StepInputs, options: StepOptions) -> LocalStep:
    """The step of :func:`sgr_kernels.local_step`."""
    body, head, x, y, target = inputs
    with torch.enable_grad():
        x = x.detach().requires_grad_(target is not None)
        output = output_of(body, x)
        if not output.requires_grad:  # a body without parameters, in the first module
            output = output.detach().requires_grad_()
        loss = loss_of(head, output, y)
        scaled = options.grad_scale * loss
        parameters = leaves_of(loss, x, output)
        outputs = [output] if options.need_delta_out else []
        if target is None:
            sgr = None
            wanted = [*parameters, *outputs]
            found = torch.autograd.grad(scaled, wanted, allow_unused=True) if wanted else ()
            gradients, deltas_out = found[: len(parameters)], found[len(parameters) :]
        else:
            delta, *deltas_out = torch.autograd.grad(scaled, [x, *outputs], create_graph=True)
            delta, target = in_wider_dtype(unscale(delta, options.grad_scale), target)
            sgr = sgr_loss(delta, target, options.comparison(delta))
            total = scaled + options.grad_scale * options.sgr_weight * sgr
            gradients = torch.autograd.grad(total, parameters, allow_unused=True) if parameters else ()
            sgr = sgr.detach()
    [delta_out] = deltas_out or [None]
    delta_out = None if delta_out is None else unscale(delta_out.detach(), options.grad_scale)
    add_gradients(parameters, gradients)
    return LocalStep(loss.detach(), sgr, output.detach(), delta_out)
