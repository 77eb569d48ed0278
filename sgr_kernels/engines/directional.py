"""SGR without a double backward: the derivative of the ordinary gradient along v, by one more ordinary pass.

v = dL_SGR / d delta is a constant, so what Algorithm 1 adds to the gradient G(x) of the local loss is

    weight * d/d theta <v, dL/dx>  =  weight * d/dh G(x + h v)  ~  weight / h * (G(x + h v) - G(x)),

or, of second order, weight / 2h * (G(x + h v) - G(x - h v)). Algorithm 1 takes gates for constants, and so do the
further passes: see :mod:`sgr_kernels.gates`. How far they go, h, is the matter of :mod:`.step_length`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..functional.direction import sgr_direction
from ..torch_internals import foreach_add_, foreach_mul_, foreach_sub_
from . import autograd
from .common import LocalStep, Settings, add_gradients, in_one_precision, memory_of_its_own, unscale
from .passes import Passes
from .step_length import step_along


def local_step(
    body: nn.Module | Callable[[Tensor], Tensor],
    head: nn.Module | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta_pre: Tensor | None,
    settings: Settings,
    radius: float | None,
    order: int,
) -> LocalStep:
    """See :func:`sgr_kernels.local_step`; arguments are checked there."""
    if delta_pre is None:
        return autograd.local_step(body, head, x, y, None, settings)
    passes = Passes(body, head, y, settings.grad_scale, x.device)
    loss, output, gradients, delta_now, delta_out = passes.record(x.detach())
    delta_now, delta_out = (unscale(delta, settings.grad_scale) for delta in (delta_now, delta_out))
    pair = in_one_precision(delta_now, delta_pre)
    sgr, direction = sgr_direction(*pair, settings.options(delta_now))
    if gradients and x.numel() > 0:
        ends = (x.detach(), delta_now), (output, delta_out)
        step = step_along(direction, *ends, passes.eps, radius, order)
        source = x.detach().to(direction.delta.dtype)
        points = [direction.shift(source, sign * step.length).to(x.dtype) for sign in (1, -1)[:order]]
        delta_out = delta_out if settings.need_delta_out else None
        del ends, delta_now, pair, direction, source  # the passes need the memory
        gradients = _reconciled(passes, gradients, points, settings.weight * step.rate)
    add_gradients(passes.parameters, gradients)
    return LocalStep(loss, sgr, output, delta_out if settings.need_delta_out else None)


def _reconciled(passes: Passes, first: list[Tensor | None], points: list[Tensor], factor: Tensor):
    """``first``, of x, plus ``factor`` times its change from x to x + h v, or half of that from x - h v: the points."""
    order = len(points)
    far = passes.gradients(points.pop(0))
    near = passes.gradients(points.pop(0)) if points else first
    used = [i for i, three in enumerate(zip(far, near, first, strict=True)) if all(g is not None for g in three)]
    if not used:
        return first
    taken: set[int] = set()
    change = [memory_of_its_own(far[i], taken) for i in used]
    foreach_sub_(change, [near[i] for i in used])
    foreach_mul_(change, factor / order)
    foreach_add_(change, [first[i] for i in used])
    result = list(first)
    for i, gradient in zip(used, change, strict=True):
        result[i] = gradient
    return result
