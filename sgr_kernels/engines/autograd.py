"""Algorithm 1 as published: a double backward through the module. Works for every twice differentiable module."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..double_backward import differentiated_twice
from ..functional.sgr_loss import loss as sgr_loss
from ..relative_weight import RelativeWeight
from .common import (
    LocalStep,
    StepInputs,
    StepOptions,
    add_gradients,
    in_wider_dtype,
    indices_behind,
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
        with contextlib.nullcontext() if target is None else differentiated_twice():
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
            gradients = _gradients(scaled, options.grad_scale * sgr, output, parameters, options.sgr_weight)
            sgr = sgr.detach()
    [delta_out] = deltas_out or [None]
    delta_out = None if delta_out is None else unscale(delta_out.detach(), options.grad_scale)
    add_gradients(parameters, gradients)
    return LocalStep(loss.detach(), sgr, output.detach(), delta_out)


def _gradients(
    loss: Tensor, sgr: Tensor, output: Tensor, parameters: list[Tensor], weight: float | Tensor | RelativeWeight
) -> Sequence[Tensor | None]:
    """Of ``loss`` + weight * ``sgr`` for the parameters. A relative weight takes a backward pass for each."""
    if not parameters:
        return ()
    if not isinstance(weight, RelativeWeight):
        return torch.autograd.grad(loss + weight * sgr, parameters, allow_unused=True)
    of_loss = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    of_sgr = [None] * len(parameters)
    if sgr.requires_grad:  # else delta is the same whatever the parameters are
        of_sgr = torch.autograd.grad(sgr, parameters, allow_unused=True)
    body = indices_behind(output, parameters)
    weight = weight.update(*([g[i].detach() for i in body if g[i] is not None] for g in (of_loss, of_sgr)))
    return [_sum(*pair, weight) for pair in zip(of_loss, of_sgr, strict=True)]


def _sum(of_loss: Tensor | None, of_sgr: Tensor | None, weight: Tensor) -> Tensor | None:
    if of_sgr is None:
        return of_loss
    weighted = (weight * of_sgr).to(of_sgr.dtype)
    return weighted if of_loss is None else of_loss + weighted
