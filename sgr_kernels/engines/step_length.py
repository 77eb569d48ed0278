"""How far the directional engine goes along v: far enough for what rounding does to a difference, near enough to x.

With rho_b = |v_b| / |x_b|, h rho_b is the relative step of sample b, and rho_b |delta_b|, up to a factor, is what it
adds to the SGR gradient. Rounding errors are some eps sum_b |delta_b| / h, the next term of the Taylor series is some
h sum_b rho_b^2 |delta_b|: they balance where h times the root of the mean of rho^2, with weights |delta|, is sqrt(eps).
A deep module makes more of the step, by a factor called gain here: its changes grow with it, the next term of the
series with its square, so that the step has to be shorter by as much.

As v_b is as long as delta_b is short, confident samples go much further than others; but none goes beyond the largest
step, where it would be no derivative any more. With the spreads that float16 can bear, smaller ones serve better there;
in bfloat16 rounding drowns them, in float32 a spread of 1e4 needs larger ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.residual import Direction, row_norms

TYPICAL = {1: 3.0, 2: 6.0}  # by order, in units of sqrt(eps), measured; the second order leaves out the even terms
LARGEST, LARGEST_IN_FLOAT16 = 0.05, 0.02


class Step(NamedTuple):
    length: Tensor  # h, 0-d float64
    rate: Tensor  # 1 / h; 0 where there is nowhere to go


def step_along(
    direction: Direction, x: Tensor, delta: Tensor, gain: Tensor, eps: float, radius: float | None, order: int
) -> Step:
    """h for steps along v from x, where the loss has the gradient delta.

    Args:
        eps: relative spacing of numbers in the lowest precision that takes part.
        radius: largest step of a sample with |x_b| > 0. None: by precision, spread and gain.
    """
    x_norms = row_norms(x)
    ratios = torch.where(x_norms == 0, 0.0, direction.norms() / x_norms)
    largest = LARGEST_IN_FLOAT16 if eps == torch.finfo(torch.float16).eps else LARGEST
    rate = ratios.amax() / (largest if radius is None else radius)
    if radius is None:
        sizes = row_norms(delta)
        typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt()
        rate = torch.maximum(rate, typical * gain / (TYPICAL[order] * eps**0.5))
    return Step(torch.where(rate == 0, 0.0, 1 / rate), rate)


def gain_of_module(x: Tensor, delta: Tensor, output: Tensor, delta_out: Tensor | None) -> Tensor:
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
