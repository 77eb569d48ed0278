"""How far the directional engine goes along v: far enough for what rounding does to a difference, near enough to x.

With rho_b = |v_b| / |x_b|, h rho_b is the relative step of sample b, and rho_b |delta_b|, up to a factor, is what it
adds to the SGR gradient. Rounding errors are some eps sum_b |delta_b| / h, the next term of the Taylor series is some
h sum_b rho_b^2 |delta_b|: they balance where h times the root of the mean of rho^2, with weights |delta|, is sqrt(eps).
A deep module makes more of the step, by a factor called gain here. The next term of the series grows with its square,
which would ask for a step shorter by as much; but where rounding happens before the gain, it grows too, and asks for
the square root. The power between them serves both.

As v_b is as long as delta_b is short, confident samples go much further than others; but none goes beyond the largest
step, where it would be no derivative any more. In half precision rounding leaves no choice but that one: with the
spreads that float16 can bear a smaller one serves better there, in bfloat16 it would drown, and in float32 a spread of
1e4 needs a larger one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.direction import Direction, row_norms

TYPICAL = {1: 3.0, 2: 6.0}  # by order, in units of sqrt(eps), measured; the second order leaves out the even terms
GAIN_POWER = 0.75
LARGEST, LARGEST_IN_FLOAT16 = 0.05, 0.02


class Step(NamedTuple):
    length: Tensor  # h, 0-d float64
    rate: Tensor  # 1 / h; 0 where there is nowhere to go


def step_along(
    direction: Direction,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor | None],
    eps: float,
    radius: float | None,
    order: int,
) -> Step:
    """h for steps along v.

    Args:
        start: x and the gradient of the loss there.
        end: likewise the output of the module.
        eps: relative spacing of numbers in the lowest precision that takes part.
        radius: largest step of a sample with |x_b| > 0. None: by precision, spread and gain.
    """
    x, delta = start
    x_norms = row_norms(x)
    ratios = torch.where(x_norms == 0, 0.0, direction.norms() / x_norms)
    half = torch.finfo(torch.float16).eps
    largest = LARGEST_IN_FLOAT16 if eps == half else LARGEST
    rate = ratios.amax() / (largest if radius is None else radius)
    if radius is None and eps < half:
        sizes = row_norms(delta)
        typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt()
        rate = torch.maximum(rate, typical * gain_of_module(*start, *end) ** GAIN_POWER / (TYPICAL[order] * eps**0.5))
    return Step(torch.where(rate == 0, 0.0, 1 / rate), rate)


def gain_of_module(x: Tensor, delta: Tensor, output: Tensor, delta_out: Tensor | None) -> Tensor:
    """By what factor a small change, relative to what it changes, grows from x to the output; 1 where it does not.

    A change without a preferred direction, of relative size r, changes the loss by about r |dL/dt| rms(t) where it is
    made: the sensitivity of t. What x is more sensitive than the output is what the module makes of a change.
    """
    if delta_out is None or output.numel() == 0 or output.is_complex():
        return x.new_ones((), dtype=torch.float64)
    at_input, at_output = (_sensitivity(*pair) for pair in ((x, delta), (output, delta_out)))
    return torch.where(at_output == 0, 1.0, at_input / at_output).clamp(min=1)


def _sensitivity(values: Tensor, gradient: Tensor) -> Tensor:
    """|gradient| rms(values), 0-d float64."""
    rows = (tensor if tensor.dim() > 0 else tensor[None] for tensor in (values, gradient))
    norms = (row_norms(tensor).square().sum().sqrt() for tensor in rows)
    return next(norms) * next(norms) / values.numel() ** 0.5
