"""How far along v the directional engine takes its difference.

The difference of two gradients has a rounding error, which is divided by h, and a truncation error from the curvature
of the gradient, which grows with h. With rho_b = |v_b| / |x_b|, sample b moves by the fraction h rho_b of its norm, and
the gradient changes by about the fraction h A of its own, where A is the root mean square of rho_b, weighted by
|delta_b|, times a power of the gain by which a module multiplies a change of x. Of that change, rounding spoils the
part eps / (h A), and curvature the part h (A + K):

    A    since along any direction the second change is to the first as that is to the gradient;
    K    since a loss is more sensitive to directions such as delta_b than to others, above all once it is trained.

v_b = alpha_b delta_b + beta_b target_b. Each of the two alone changes the loss by h alpha_b |delta_b|^2. They cancel in
the loss, but not in its curvature: h K is the sum of these changes, relative to the loss. The two errors are equal
where

    h sqrt(A (A + K))  ~  sqrt(eps).

Of central differences the truncation error grows with h^2, and the power of eps is a third.

The truncation error asks for an h shorter by the gain, and rounding before the layers with the gain for one shorter by
its square root only; the power 0.75 in between was best in measurements. A gain below 1, as of a small x beside biases,
asks for a longer h likewise: otherwise nothing but rounding is left. It is that of a sample, and counts in its rho_b.

eps is the spacing of float32 or float64 where that is all there is. Where products round their operands but sum in
float32, as in TF32, errors that are independent average out, and those of the weights are the same in both passes: a
small part of the spacing counts as eps. Under autocast results are rounded as well, and a larger part counts.

v_b grows as delta_b shrinks, so confident samples move much further than the others. A bound on h rho_b keeps them near
x, since far from it the difference is no derivative. In float32 spreads of 1e4 need the bound of 0.05. Where eps is
large, nothing but rounding is left of the others below some multiple of sqrt(eps), which h rho_b may always reach.
"""

import math

import torch
from torch import Tensor

from ..functional.direction import Direction, row_norms
from ..functional.rows import as_rows
from ..operators.sgr_step_length import sgr_step_length
from ..products import Spacing

TYPICAL = {1: (2.5, 1 / 2), 2: (1.1, 1 / 3)}  # h sqrt(A (A + K)), by order: factor (measured) and power of eps
GAIN_POWER = 0.75
PART_OF_PRODUCTS, PART_OF_HALF = 1 / 15, 1 / 10  # of the spacing, as eps; measured
LARGEST, LARGEST_IN_ROUNDING = 0.05, 8.0  # bound on h rho_b: the larger of this and that in units of sqrt(eps)
MOST = 10.0  # bound on K / A: a loss may be small by an offset
FLOAT32 = torch.finfo(torch.float32).eps


def step_length(
    direction: Direction,
    loss: Tensor,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor | None],
    spacing: Spacing,
    radius: float | None,
    order: int,
) -> tuple[Tensor, Tensor]:
    """1 / h for the difference along v, 0-d float64; and the coefficients of h v, (2, B) float64. Both 0 where v = 0.

    Args:
        loss: of the module, 0-d.
        start: x and dL/dx, both (B, ...).
        end: output of the module and dL/d output, both of the shape of the output; a gradient of None: gain 1.
        spacing: of the numbers of the passes.
        radius: bound on h rho_b. None: from precision, spread, gain and loss.
        order: 1 or 2.
    """
    if radius is not None:
        norms = row_norms(start[0])
        inverse = (direction.norms() / norms).masked_fill_(norms == 0, 0.0).amax() / radius
        h = inverse.reciprocal().nan_to_num_(nan=math.nan, posinf=0.0)
        return inverse, h * direction.coef[:2]
    ends, size_ratio = [*map(rows_of, start)], 1.0
    if has_gain(*end):
        ends += map(rows_of, end)
        size_ratio = (end[0].numel() / start[0].numel()) ** 0.5
    else:
        ends += None, None
    eps, (factor, power) = rounding_of(spacing), TYPICAL[order]
    longest = max(LARGEST, LARGEST_IN_ROUNDING * eps**0.5)
    law = size_ratio, factor * eps**power, longest, GAIN_POWER, MOST
    return sgr_step_length(loss.to(direction.coef.device), direction.coef, *ends, *law)


def rounding_of(spacing: Spacing) -> float:
    """eps: how much of the spacing is left in a gradient as a rounding error."""
    in_half = spacing.tensors > FLOAT32
    return max(spacing.tensors * (PART_OF_HALF if in_half else 1.0), spacing.products * PART_OF_PRODUCTS)


def has_gain(output: Tensor, gradient: Tensor | None) -> bool:
    """Whether a gain can be told: not without a gradient, elements or real numbers."""
    return gradient is not None and output.numel() > 0 and not output.is_complex()


def rows_of(tensor: Tensor) -> Tensor:
    return as_rows(tensor if tensor.dim() > 0 else tensor[None])[0]
