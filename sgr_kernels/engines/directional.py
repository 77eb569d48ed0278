"""SGR without a double backward: the derivative of the ordinary gradient along v, by one more ordinary pass.

v = dL_SGR / d delta is a constant, so what Algorithm 1 adds to the gradient G(x) of the local loss is

    weight * d/d theta <v, dL/dx>  =  weight * d/dh G(x + h v)  ~  weight / h * (G(x + h v) - G(x)),

or, of second order, weight / 2h * (G(x + h v) - G(x - h v)). Algorithm 1 takes gates for constants, and so do the
further passes: see :mod:`sgr_kernels.gates`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..functional.residual import Direction, row_norms, sgr_direction
from . import autograd
from .common import LocalStep, Settings, add_gradients, in_one_precision, memory_of_its_own, unscale
from .passes import Passes, coarsest


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
    sgr, direction = sgr_direction(*pair, **settings.residual_options(delta_now))
    if gradients and x.numel() > 0:
        gain = _gain(x.detach(), delta_now, output, delta_out)
        step = _step(x.detach(), delta_now, direction, radius, order, gain, passes.parameters)
        source = x.detach().to(direction.delta.dtype)
        points = [direction.shift(source, sign * step.length).to(x.dtype) for sign in (1, -1)[:order]]
        delta_out = delta_out if settings.need_delta_out else None
        del delta_now, pair, direction, source  # the passes need the memory
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
    torch._foreach_sub_(change, [near[i] for i in used])
    torch._foreach_mul_(change, factor / order)
    torch._foreach_add_(change, [first[i] for i in used])
    result = list(first)
    for i, gradient in zip(used, change, strict=True):
        result[i] = gradient
    return result


class _Step(NamedTuple):
    length: Tensor  # h, 0-d float64
    rate: Tensor  # 1 / h; 0 where there is nowhere to go


# Default steps, relative to |x_b|. With rho_b = |v_b| / |x_b|, h rho_b is the step of sample b, and rho_b |delta_b|, up
# to a factor, is what it adds to the SGR gradient. Rounding errors are some eps sum_b |delta_b| / h, the next term of
# the Taylor series is some h sum_b rho_b^2 |delta_b|: they balance where h times the root of the mean of rho^2, with
# weights |delta|, is sqrt(eps). A deep module makes more of the step, by a factor called gain here: its changes grow
# with it, the next term of the series with its square, so that the step has to be shorter by as much.
# As v_b is as long as delta_b is short, confident samples go much further than others; but none goes beyond the largest
# step, where it would be no derivative any more. With the spreads that float16 can bear, smaller ones serve better
# there; in bfloat16 rounding drowns them, in float32 a spread of 1e4 needs larger ones.
TYPICAL = {1: 3.0, 2: 6.0}  # in units of sqrt(eps), measured; the second order leaves out the even terms
LARGEST, LARGEST_IN_FLOAT16 = 0.05, 0.02


def _step(
    x: Tensor,
    delta: Tensor,
    direction: Direction,
    radius: float | None,
    order: int,
    gain: Tensor,
    parameters: Iterable[Tensor],
) -> _Step:
    """``radius``: largest step of a sample with |x_b| > 0."""
    x_norms = row_norms(x)
    ratios = torch.where(x_norms == 0, 0.0, direction.norms() / x_norms)
    eps = coarsest(x, parameters)
    largest = LARGEST_IN_FLOAT16 if eps == torch.finfo(torch.float16).eps else LARGEST
    rate = ratios.amax() / (largest if radius is None else radius)
    if radius is None:
        sizes = row_norms(delta)
        typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt()
        rate = torch.maximum(rate, typical * gain / (TYPICAL[order] * eps**0.5))
    return _Step(torch.where(rate == 0, 0.0, 1 / rate), rate)


def _gain(x: Tensor, delta: Tensor, output: Tensor, delta_out: Tensor | None) -> Tensor:
    """By what factor a small change, relative to what it changes, grows from x to the output; 1 where it does not.

    A change without a preferred direction, of relative size r, changes the loss by about r |dL/dt| rms(t) where it is
    made: the sensitivity of t. What x is more sensitive than the output is what the module makes of a change.
    """
    if delta_out is None:
        return x.new_ones((), dtype=torch.float64)
    at_input, at_output = (_sensitivity(*pair) for pair in ((x, delta), (output, delta_out)))
    return torch.where(at_output == 0, 1.0, at_input / at_output).clamp(min=1)


def _sensitivity(values: Tensor, gradient: Tensor) -> Tensor:
    """|gradient| rms(values), 0-d float64."""
    norms = (row_norms(tensor).square().sum().sqrt() for tensor in (values, gradient))
    return next(norms) * next(norms) / values.numel() ** 0.5
