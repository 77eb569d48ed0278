"""Whether a gradient is that of the loss: hooks and autograd Functions can make it anything.

A difference of two gradients is the derivative that Algorithm 1 computes only if they are gradients.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import in_function_transform

# Distances to try, relative to the norm of x: from the longest one down as far as rounding lets anything be seen.
LONGEST, RATIO = 0.06, 1 / 4
TOLERANCE = 0.05  # relative, of derivatives along the direction; eps^(1/4) if that is more, as in half precision


class Summands:
    """What the losses and other 0-d results of a pass were computed from, of whose calls :meth:`see` is told."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def see(self, args: tuple, kwargs: dict, result: Any) -> None:
        if isinstance(result, Tensor) and result.dim() == 0 and not in_function_transform():  # whose tensors end there
            self.tensors += [arg.detach() for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]


def require_step_before(checked: bool) -> None:
    """During the capture of a CUDA graph, in which nothing can be checked: raises RuntimeError if nothing was."""
    if not checked:
        raise RuntimeError(
            "a first step outside of the capture of a CUDA graph is needed: it checks that two passes do the same and "
            "that gradients are those of the loss"
        )


def check_gradient(
    loss_at: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, loss: Tensor, summands: list[Tensor], eps: float
) -> None:
    """Compare <grad, u> for a random u, near the direction of ``grad``, with the change of the loss along u.

    A gradient that is right is seen to be so at two neighbouring distances, unless the loss bends at long ones and is
    lost in rounding at short ones. One that is wrong is not, and is seen to be wrong at two where the loss is straight,
    unless it is seen to bend at shorter ones: two that agree do so by chance then.

    Args:
        loss_at: the loss as a function of x; anything but x is the same in every call.
        grad: its gradient at x, shape of ``x``.
        loss: its value at x, 0-d.
        summands: what the loss was summed or computed from, which says how it is rounded.
        eps: relative spacing of numbers in the lowest precision that takes part.

    Raises:
        RuntimeError: the gradient is wrong.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    source, grad, loss = x.to(dtype), grad.to(dtype), float(loss)
    generator = torch.Generator(x.device).manual_seed(0)  # the global stream is the network's

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=dtype)

    def changes() -> Iterator[tuple[float, float, float]]:
        """Distance, change of the loss along a direction, and according to the gradient."""
        direction = _unit(_unit(grad).add_(_unit(noise()))).mul_(float(source.norm()) or 1.0)
        distance = LONGEST
        while distance > eps:
            step = distance * direction
            ahead, behind = (source + step).to(x.dtype), (source - step).to(x.dtype)
            expected = float((grad * (ahead.to(dtype) - behind.to(dtype))).sum(dtype=torch.float64))
            yield distance, float(loss_at(ahead)) - float(loss_at(behind)), expected
            distance *= RATIO

    rounding = [abs(float(loss_at((source + eps * source * noise()).to(x.dtype))) - loss) for _ in range(2)]
    largest = max((float(tensor.abs().max()) for tensor in summands if tensor.numel() > 0), default=0.0)
    rounding = max(*rounding, eps * abs(loss), eps * largest)
    tolerance = max(TOLERANCE, eps**0.25)
    seen: list[tuple[float, float]] = []  # derivatives along the direction: of the loss, and according to the gradient
    wrong = None
    for distance, change, expected in changes():
        if not max(abs(change), abs(expected)) > 2 / tolerance * rounding:
            break
        seen.append((change / distance, expected / distance))
        right = [_agree(*pair, tolerance) for pair in seen[-2:]]
        if len(seen) > 1 and all(right):
            return
        straight = len(seen) > 1 and _agree(seen[-2][0], seen[-1][0], tolerance)
        if straight and not any(right):
            wrong = seen[-1]
        elif not straight and abs(change) > 2 / tolerance * rounding:
            wrong = None
    if wrong is not None:
        change, expected = wrong
        raise RuntimeError(
            f"the gradient for x is not that of the loss: along x, the loss changes by {change:.3g}, and according to "
            f"the gradient by {expected:.3g}; hooks and autograd Functions must have a backward pass that is the exact "
            "derivative of their forward pass; use engine='autograd' where they do not"
        )


def _agree(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other))


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm == 0, 0.0, vector / norm)
