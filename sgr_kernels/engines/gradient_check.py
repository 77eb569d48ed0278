"""Whether a gradient is that of the loss: hooks and autograd Functions can make it anything.

A difference of two gradients is the derivative that Algorithm 1 computes only if they are gradients.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Distances to try, relative to the norm of x, down to eps^(3/4): long ones for coarse precisions, short ones for steep
# losses. A gradient passes if two neighbours confirm it, or the last. One that is wrong fails at every distance, but by
# chance; one that is right on average, as that of rounding straight through, fails at short ones.
LONGEST, RATIO = 0.03, 1 / 8
TOLERANCE = 0.05  # of the derivative along the direction; eps^(1/4) if that is more, as in half precision


def check_gradient(loss_at: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, loss: Tensor, eps: float) -> None:
    """Compare <grad, u> for a random u, near the direction of ``grad``, with the change of the loss along u.

    Args:
        loss_at: the loss as a function of x; anything but x is the same in every call.
        grad: its gradient at x, shape of ``x``.
        loss: its value at x, 0-d.
        eps: relative spacing of numbers in the lowest precision that takes part.

    Raises:
        RuntimeError: they differ wherever the loss is finite.
    """
    generator = torch.Generator(x.device).manual_seed(0)  # the global stream is the network's
    dtype = torch.promote_types(x.dtype, torch.float32)
    source, grad, loss = x.to(dtype), grad.to(dtype), float(loss)
    size = float(source.norm()) or 1.0

    def changes(distance: float) -> tuple[float, float]:
        """Of the loss along a direction, and according to its gradient."""
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=dtype)
        step = _unit(_unit(grad).add_(_unit(noise))).mul_(distance * size)
        ahead, behind = (source + step).to(x.dtype), (source - step).to(x.dtype)
        expected = float((grad * (ahead.to(dtype) - behind.to(dtype))).sum(dtype=torch.float64))
        return float(loss_at(ahead)) - float(loss_at(behind)), expected

    found, agreed, rounding = [], False, eps * abs(loss)
    for distance in _distances(eps):
        change, expected = changes(distance)
        if max(abs(change), abs(expected)) < 4 * rounding:  # there is nothing to be seen at this distance
            break
        found.append((change, expected))
        tolerance = max(TOLERANCE, eps**0.25) + eps / distance  # with the rounding inside of the network
        before, agreed = agreed, abs(change - expected) <= tolerance * abs(expected) + rounding
        if before and agreed:
            return
    change, expected = next((pair for pair in found if math.isfinite(pair[0])), (None, None))
    if change is not None and not agreed:
        raise RuntimeError(
            f"the gradient for x is not that of the loss: a small change of x changes the loss by {change:.3g}, and by "
            f"{expected:.3g} according to the gradient; hooks and autograd Functions must have a backward pass that is "
            "the exact derivative of their forward pass; use engine='autograd' where they do not"
        )


def _distances(eps: float) -> list[float]:
    distances = [LONGEST]
    while distances[-1] * RATIO > eps**0.75:
        distances.append(distances[-1] * RATIO)
    return distances if len(distances) > 1 else 2 * distances


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm == 0, 0.0, vector / norm)
