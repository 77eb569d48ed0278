"""Whether a gradient is that of the loss: hooks and autograd Functions can make it anything.

A difference of two gradients is the derivative that Algorithm 1 computes only if they are gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Distances to try, relative to the norm of x, down to sqrt(eps): long ones for coarse precisions, short ones for steep
# losses. A gradient passes if one of them confirms it; one that is wrong fails at every distance.
LONGEST, RATIO = 0.03, 1 / 8
TOLERANCE = 0.05  # of the derivative along the direction


def check_gradient(loss_at: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, loss: Tensor, eps: float) -> None:
    """Compare <grad, u> for a random u, near the direction of ``grad``, with the change of the loss along u.

    Args:
        loss_at: the loss as a function of x; anything but x is the same in every call.
        grad: its gradient at x, shape of ``x``.
        loss: its value at x, 0-d.
        eps: relative spacing of numbers in the lowest precision that takes part.

    Raises:
        RuntimeError: they differ.
    """
    generator = torch.Generator(x.device).manual_seed(0)  # the global stream is the network's
    size, grad = x.double().norm(), grad.double()
    size = torch.where(size == 0, 1.0, size)
    distance, tried = LONGEST, []
    while not tried or distance > eps**0.5:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=torch.float64)
        direction = _unit(_unit(grad) + _unit(noise))
        step = (distance * size * direction).to(x.dtype)
        ahead, behind = ((x + sign * step) for sign in (1, -1))
        change = (loss_at(ahead).double() - loss_at(behind).double()).reshape(())
        expected = (grad * (ahead.double() - behind.double())).sum()
        tried.append((float(change), float(expected)))
        if (change - expected).abs() <= TOLERANCE * expected.abs() + eps * loss.double().abs().reshape(()):
            return
        distance *= RATIO
    change, expected = tried[0]
    raise RuntimeError(
        f"the gradient for x is not that of the loss: a small change of x changes the loss by {change:.3g}, and by "
        f"{expected:.3g} according to the gradient; hooks and autograd Functions must have a backward pass that is the "
        "exact derivative of their forward pass; use engine='autograd' where they do not"
    )


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm == 0, 0.0, vector / norm)
