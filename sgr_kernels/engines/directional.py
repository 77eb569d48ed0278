"""SGR without a double backward: the derivative of the ordinary gradient along v, by one more ordinary pass.

v = dL_SGR / d delta is a constant, so what Algorithm 1 adds to the gradient G(x) of the local loss is

    sgr_weight * d/d theta <v, dL/dx>  =  sgr_weight * d/dh G(x + h v)  ~  sgr_weight / h * (G(x + h v) - G(x)),

or, of second order, sgr_weight / 2h * (G(x + h v) - G(x - h v)). Algorithm 1 treats gates as constants, and so do the
passes at x + h v and x - h v: see :mod:`sgr_kernels.gates`. :mod:`.step_length` chooses h.
"""

from functools import partial

import torch
from torch import Tensor

from ..functional.direction import sgr_direction
from ..relative_weight import RelativeWeight
from ..torch_internals import foreach_add_, foreach_mul_, foreach_sub_
from . import autograd, overlap
from .common import LocalStep, StepInputs, StepOptions, add_gradients, in_memory_of_their_own, in_wider_dtype, unscale
from .passes import Passes
from .step_length import step_length


def run(inputs: StepInputs, options: StepOptions) -> LocalStep:
    """The step of :func:`sgr_kernels.local_step`."""
    if inputs.target is None:
        return autograd.run(inputs, options)
    x = inputs.x.detach()
    passes = Passes(inputs, options.grad_scale)
    loss, output, gradients, *deltas = passes.record(find_body=isinstance(options.sgr_weight, RelativeWeight))
    delta, delta_out = (unscale(scaled, options.grad_scale) for scaled in deltas)
    pair = in_wider_dtype(delta, inputs.target)
    sgr, direction = sgr_direction(*pair, options.comparison(delta))
    if gradients and x.numel() > 0:
        ends = (x, delta), (output, delta_out)
        inverse, coef = step_length(direction, loss, *ends, passes.spacing, options.radius, options.order)
        source = x.to(direction.delta.dtype)
        points = [direction.combine(source, coef, sign).to(x.dtype) for sign in (1.0, -1.0)[: options.order]]
        delta_out = delta_out if options.need_delta_out else None
        del ends, deltas, delta, pair, direction, source  # the passes need the memory
        work = partial(reconciled, passes, gradients, points, options.sgr_weight, inverse)
        if steps := overlap.current(x):
            steps.launch(passes.parameters, work, held=[x, *points])
        else:
            add_gradients(passes.parameters, work())
    else:
        add_gradients(passes.parameters, gradients)
    return LocalStep(loss, sgr, output, delta_out if options.need_delta_out else None)


def reconciled(
    passes: Passes,
    at_x: list[Tensor | None],
    points: list[Tensor],
    weight: float | Tensor | RelativeWeight,
    inverse: Tensor,
) -> list[Tensor | None]:
    """``at_x`` plus the weighted SGR gradients, one a parameter.

    Args:
        at_x: gradients at x.
        points: [x + h v], or [x + h v, x - h v] for second order; emptied, to free each after its pass.
        inverse: 1 / h, 0-d.
    """
    order = len(points)
    ahead = passes.gradients(points.pop(0))
    behind = passes.gradients(points.pop(0)) if points else at_x
    triples = enumerate(zip(ahead, behind, at_x, strict=True))
    used = [i for i, (a, b, x) in triples if a is not None and b is not None and x is not None]
    if not used:
        return at_x
    change = in_memory_of_their_own([ahead[i] for i in used])
    foreach_sub_(change, [behind[i] for i in used])
    inverse = inverse if order == 1 else inverse / order
    if isinstance(weight, RelativeWeight):
        of_body = [(at_x[i], each) for i, each in zip(used, change, strict=True) if i in passes.body]
        weight = weight.update([local for local, _ in of_body], [each for _, each in of_body], inverse)
    factor = weight * inverse
    # A number of their own dtype multiplies many tensors in one kernel, or on a CPU three times as fast.
    foreach_mul_(change, factor.float() if {each.dtype for each in change} == {torch.float32} else factor)
    foreach_add_(change, [at_x[i] for i in used])
    result = list(at_x)
    for i, gradient in zip(used, change, strict=True):
        result[i] = gradient
    return result
