"""How far along v the directional engine takes its difference.

The difference of two gradients has a rounding error, which is divided by h, and a truncation error from the curvature
of the gradient, which grows with h. With rho_b = |v_b| / |x_b|, sample b moves by the fraction h rho_b of its norm, and

    rounding error    ~  eps sum_b |delta_b| / h,
    truncation error  ~  h sum_b rho_b^2 |delta_b|.

They are equal where h times the root mean square of rho_b, weighted by |delta_b|, is sqrt(eps). A deep module
multiplies a change of x by its gain. The truncation error then asks for an h shorter by the gain, and rounding before
the layers with the gain for one shorter by its square root only; the power 0.75 in between was best in measurements.
A gain below 1, as of a small x beside biases, asks for a longer h likewise: otherwise nothing but rounding is left. It
is that of a sample, and counts in its rho_b.

v_b grows as delta_b shrinks, so confident samples move much further than the others. A bound on h rho_b keeps them near
x, since far from it the difference is no derivative. In half precision h is always that bound, for rounding errors
are too large for any smaller one. In float16, which cannot hold gradient norms of very different sizes, a smaller bound
was better in measurements; in float32 spreads of 1e4 need the larger one.
"""

import torch
from torch import Tensor

from ..functional.direction import Direction, row_norms

TYPICAL = {1: 3.0, 2: 6.0}  # weighted rms of h rho_b in units of sqrt(eps), by order; measured
GAIN_POWER = 0.75
LARGEST, LARGEST_IN_FLOAT16 = 0.05, 0.02  # bounds on h rho_b


def inverse_length(
    direction: Direction,
    start: tuple[Tensor, Tensor],
    end: tuple[Tensor, Tensor | None],
    eps: float,
    radius: float | None,
    order: int,
) -> Tensor:
    """1 / h for the difference along v, 0-d float64; 0 where v = 0.

    Args:
        start: x and dL/dx, both (B, ...).
        end: output of the module and dL/d output, both of the shape of the output; a gradient of None: gain 1.
        eps: relative spacing of numbers in the lowest precision that takes part.
        radius: bound on h rho_b. None: from precision, spread and gain.
        order: 1 or 2.
    """
    lengths = direction.norms()
    if radius is not None:
        norms = row_norms(start[0])
        return torch.where(norms == 0, 0.0, lengths / norms).amax() / radius
    ratios = relative_lengths(lengths, *start, *end)  # rho
    half = torch.finfo(torch.float16).eps
    inverse = ratios.amax() / (LARGEST_IN_FLOAT16 if eps == half else LARGEST)
    if eps < half:
        sizes = row_norms(start[1])
        typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt()
        wanted = typical * gain_of_module(*start, *end) ** GAIN_POWER / (TYPICAL[order] * eps**0.5)
        inverse = torch.maximum(inverse, wanted)
    return inverse


def relative_lengths(lengths: Tensor, x: Tensor, delta: Tensor, output: Tensor, delta_out: Tensor | None) -> Tensor:
    """rho_b, (B,) float64: |v_b| / |x_b|, times the gain of the sample to the power GAIN_POWER where that is below 1.

    Args:
        lengths: |v_b|, (B,).
        output, delta_out: without a row for each sample, their gain is taken to be 1.
    """
    norms = row_norms(x)
    at_input = lengths / norms
    if delta_out is None or output.dim() == 0 or len(output) != len(x) or output.numel() == 0 or output.is_complex():
        return torch.where(norms == 0, 0.0, at_input)
    sizes = row_norms(output) * row_norms(delta_out) / (output[0].numel() / x[0].numel()) ** 0.5
    at_output = lengths * row_norms(delta) / sizes  # |v_b| / |x_b| times the gain: all there is where x_b = 0
    shorter = torch.where(norms == 0, at_output, at_input ** (1 - GAIN_POWER) * at_output**GAIN_POWER)
    ratios = torch.where((at_output < at_input) | (norms == 0), shorter, at_input)
    return torch.where(ratios.isfinite() | lengths.isnan(), ratios, 0.0)


def gain_of_module(x: Tensor, delta: Tensor, output: Tensor, delta_out: Tensor | None) -> Tensor:
    """By what factor, at least 1, the module multiplies the relative size of a small change of x; 0-d float64.

    A random change of a tensor t by the fraction r of its size changes the loss by about r |dL/dt| rms(t). The gain is
    |dL/dt| rms(t) of x over that of the output.
    """
    if delta_out is None or output.numel() == 0 or output.is_complex():
        return x.new_ones((), dtype=torch.float64)
    at_input, at_output = (_sensitivity(*pair) for pair in ((x, delta), (output, delta_out)))
    return torch.where(at_output == 0, 1.0, at_input / at_output).clamp(min=1)


def _sensitivity(values: Tensor, gradient: Tensor) -> Tensor:
    """|gradient| rms(values), 0-d float64, of two tensors of one shape."""
    rows = (tensor if tensor.dim() > 0 else tensor[None] for tensor in (values, gradient))
    norm_of_values, norm_of_gradient = (row_norms(tensor).square().sum().sqrt() for tensor in rows)
    return norm_of_gradient * norm_of_values / values.numel() ** 0.5
