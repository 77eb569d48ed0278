"""How far along v the directional engine takes its difference.

The difference of two gradients has a rounding error, which is divided by h, and a truncation error from the curvature
of the gradient, which grows with h. With rho_b = |v_b| / |x_b|, sample b moves by the fraction h rho_b of its norm, and
the gradient changes by about the fraction h A of its own, where A is the root mean square of rho_b, weighted by
|delta_b|, times a power of the gain by which a module multiplies a change of x. Of that change, rounding spoils the part
eps / (h A), and curvature the part h (A + K):

    A    since along any direction the second change is to the first as that is to the gradient;
    K    since a loss is more sensitive to directions such as delta_b than to others, above all once it is trained.

v_b = alpha_b delta_b + beta_b target_b. Each of the two alone changes the loss by h alpha_b |delta_b|^2. They cancel in
the loss, but not in its curvature: h K is the sum of these changes, relative to the loss. The two errors are equal where

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

from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.direction import Direction, row_norms
from ..products import Spacing
from ..torch_internals import foreach_norm

TYPICAL = {1: (2.5, 1 / 2), 2: (1.1, 1 / 3)}  # h sqrt(A (A + K)), by order: factor (measured) and power of eps
GAIN_POWER = 0.75
PART_OF_PRODUCTS, PART_OF_HALF = 1 / 15, 1 / 10  # of the spacing, as eps; measured
TINY = torch.finfo(torch.float64).tiny
LARGEST, LARGEST_IN_ROUNDING = 0.05, 8.0  # bound on h rho_b: the larger of this and that in units of sqrt(eps)
MOST = 10.0  # bound on K / A: a loss may be small by an offset


def inverse_length(
    direction: Direction,
    loss: Tensor,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor | None],
    spacing: Spacing,
    radius: float | None,
    order: int,
) -> Tensor:
    """1 / h for the difference along v, 0-d float64; 0 where v = 0.

    Args:
        loss: of the module, 0-d.
        start: x and dL/dx, both (B, ...).
        end: output of the module and dL/d output, both of the shape of the output; a gradient of None: gain 1.
        spacing: of the numbers of the passes.
        radius: bound on h rho_b. None: from precision, spread, gain and loss.
        order: 1 or 2.
    """
    lengths, at_input, at_output = direction.norms(), norms_of(*start), norms_of(*end)
    nowhere, distances = at_input.values == 0, lengths / at_input.values
    if radius is not None:
        return distances.masked_fill_(nowhere, 0.0).amax() / radius
    ratios = relative_lengths(lengths, distances, nowhere, at_input, at_output)  # rho
    eps, sizes = rounding_of(spacing), at_input.gradient
    typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp_(min=TINY)).sqrt_()
    change = typical.mul_(gain_of_module(at_input, at_output).pow_(GAIN_POWER))  # A
    of_loss = torch.minimum(change_of_loss(direction, sizes, loss), MOST * change)  # K
    curvature = (change * (change + of_loss)).sqrt_()
    factor, power = TYPICAL[order]
    longest = max(LARGEST, LARGEST_IN_ROUNDING * eps**0.5)
    return torch.maximum(curvature.div_(factor * eps**power), ratios.amax() / longest)


def change_of_loss(direction: Direction, sizes: Tensor, loss: Tensor) -> Tensor:
    """By what part of itself v would change the loss if its two parts did not cancel, 0-d; 0 without a positive loss.

    Args:
        sizes: |delta_b|, (B,).
    """
    parts = torch.minimum(direction.norms(), direction.coef[0].abs() * sizes)  # v_b is short where they cancel
    return torch.where(loss > 0, (parts * sizes).sum() / loss, 0.0)


def rounding_of(spacing: Spacing) -> float:
    """eps: how much of the spacing is left in a gradient as a rounding error."""
    in_half = spacing.tensors > torch.finfo(torch.float32).eps
    return max(spacing.tensors * (PART_OF_HALF if in_half else 1.0), spacing.products * PART_OF_PRODUCTS)


class Norms(NamedTuple):
    """Of the rows of a tensor and of the gradient for it, (B,) float64, and how many elements the tensor has."""

    values: Tensor
    gradient: Tensor
    elements: int


def norms_of(values: Tensor, gradient: Tensor | None) -> Norms | None:
    """None where a gain cannot be told: without a gradient, elements or real numbers."""
    if gradient is None or values.numel() == 0 or values.is_complex():
        return None
    rows = [tensor if tensor.dim() > 0 else tensor[None] for tensor in (values, gradient)]
    return Norms(*map(row_norms, rows), values.numel())


def relative_lengths(
    lengths: Tensor, distances: Tensor, nowhere: Tensor, at_input: Norms, at_output: Norms | None
) -> Tensor:
    """rho_b, (B,) float64: |v_b| / |x_b|, times the gain of the sample to the power GAIN_POWER where that is below 1.

    Where x_b = 0, it is times the gain, in which |x_b| cancels.

    Args:
        lengths: |v_b|, (B,).
        distances: |v_b| / |x_b|, (B,).
        nowhere: whether |x_b| = 0, (B,).
        at_output: without a row for each sample, gains are taken to be 1.
    """
    if at_output is None or len(at_output.values) != len(lengths):
        return distances.masked_fill(nowhere, 0.0)
    per_value = at_input.gradient / (at_output.values * at_output.gradient)
    per_value *= (at_output.elements / at_input.elements) ** 0.5
    gains = (per_value * at_input.values).nan_to_num_(1.0, 1.0).clamp_(max=1)
    at_zero = (lengths * per_value).nan_to_num_(0.0, 0.0)
    return torch.where(nowhere, at_zero, gains.pow_(GAIN_POWER).mul_(distances))


def gain_of_module(at_input: Norms, at_output: Norms | None) -> Tensor:
    """By what factor, at least 1, the module multiplies the relative size of a small change of x; 0-d float64.

    A random change of a tensor t by the fraction r of its size changes the loss by about r |dL/dt| rms(t). The gain is
    |dL/dt| rms(t) of x over that of the output.
    """
    if at_output is None:
        return at_input.values.new_ones(())
    sizes = foreach_norm([*at_input[:2], *at_output[:2]])
    before, after = sizes[0] * sizes[1], sizes[2] * sizes[3]
    gain = (before / after).mul_((at_output.elements / at_input.elements) ** 0.5)
    return gain.masked_fill_(after == 0, 1.0).clamp_(min=1)
