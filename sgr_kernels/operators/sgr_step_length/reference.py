"""sgr_step_length in plain PyTorch."""

import math

import torch
from torch import Tensor

from ..row_norms.reference import row_norms

TINY = torch.finfo(torch.float64).tiny


def sgr_step_length(
    loss: Tensor,
    coef: Tensor,
    x: Tensor,
    delta: Tensor,
    output: Tensor | None,
    delta_output: Tensor | None,
    size_ratio: float,
    typical: float,
    longest: float,
    gain_power: float,
    most: float,
) -> tuple[Tensor, Tensor]:
    """1 / h, 0-d, which is 0 where v is; and h alpha, h beta, (2, B)."""
    alpha, beta, _, lengths = coef.unbind()
    if len(x) == 0:
        return coef.new_zeros(()), coef.new_zeros((2, 0))
    x, delta = row_norms(x), row_norms(delta)
    ends = None if output is None or delta_output is None else (row_norms(output), row_norms(delta_output))
    ratios = relative_lengths(lengths, x, delta, ends, size_ratio, gain_power)
    mean_square = (delta * ratios.square()).sum() / delta.sum().clamp(min=TINY)
    change = mean_square.sqrt() * gain_of_module(x, delta, ends, size_ratio).pow(gain_power)  # A
    of_loss = torch.minimum(change_of_loss(lengths, alpha, delta, loss), most * change)  # K
    curvature = (change * (change + of_loss)).sqrt()
    inverse = torch.maximum(curvature / typical, ratios.amax() / longest)
    h = inverse.reciprocal().nan_to_num(nan=math.nan, posinf=0.0)
    return inverse, h * torch.stack([alpha, beta])


def relative_lengths(
    lengths: Tensor, x: Tensor, delta: Tensor, ends: tuple[Tensor, Tensor] | None, size_ratio: float, power: float
) -> Tensor:
    """rho_b, (B,): |v_b| / |x_b|, times the gain of the sample to the power where that is below 1.

    Where x_b = 0, it is |v_b| times the gain, in which |x_b| cancels. Without a row of the output for each sample,
    gains are taken to be 1.
    """
    nowhere, distances = x == 0, lengths / x
    if ends is None or len(ends[0]) != len(x):
        return distances.masked_fill(nowhere, 0.0)
    per_value = size_ratio * delta / (ends[0] * ends[1])
    gains = (per_value * x).nan_to_num(1.0, 1.0).clamp(max=1)
    at_zero = (lengths * per_value).nan_to_num(0.0, 0.0)
    return torch.where(nowhere, at_zero, gains.pow(power) * distances)


def gain_of_module(x: Tensor, delta: Tensor, ends: tuple[Tensor, Tensor] | None, size_ratio: float) -> Tensor:
    """By what factor, at least 1, the module multiplies the relative size of a small change of x; 0-d.

    A random change of a tensor t by the fraction r of its size changes the loss by about r |dL/dt| rms(t). The gain is
    |dL/dt| rms(t) of x over that of the output.
    """
    if ends is None:
        return x.new_ones(())
    before, after = (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b) for a, b in ((x, delta), ends))
    return (before / after * size_ratio).masked_fill(after == 0, 1.0).clamp(min=1)


def change_of_loss(lengths: Tensor, alpha: Tensor, delta: Tensor, loss: Tensor) -> Tensor:
    """By what part of itself v would change the loss if its parts did not cancel, 0-d; 0 without a positive loss."""
    parts = torch.minimum(lengths, alpha.abs() * delta)  # v_b is short where they cancel
    return torch.where(loss > 0, (parts * delta).sum() / loss, 0.0)
