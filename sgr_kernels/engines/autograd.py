"""Algorithm 1 as published: a double backward through the module. Works for every twice differentiable module."""

import torch

from ..functional.sgr_loss import loss as sgr_loss
from .common import LocalStep, StepInputs, StepOptions, add_gradients, check_scalar, in_wider_dtype, trainable, unscale


def run(inputs: StepInputs, options: StepOptions) -> LocalStep:
    """The step of :func:`sgr_kernels.local_step`."""
    body, head, x, y, target = inputs
    with torch.enable_grad():
        x = x.detach().requires_grad_(target is not None)
        output = body(x)
        if not output.requires_grad:  # a body without parameters, in the first module
            output = output.detach().requires_grad_()
        loss = head(output, y)
        check_scalar(loss)
        scaled = options.grad_scale * loss
        parameters = trainable((body, head), loss)
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
    add_gradients(parameters, gradients)
    [delta_out] = deltas_out or [None]
    delta_out = None if delta_out is None else unscale(delta_out.detach(), options.grad_scale)
    return LocalStep(loss.detach(), sgr, output.detach(), delta_out)
