"""A differentiable function in the modes in which a training step runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.autograd import grad

from .case import Run

MODES = ("forward", "backward", "double backward", "full")
PREPARED = ("backward", "double backward")  # those that go back through a graph that is there before


class Point(NamedTuple):
    """Where a function is differentiated, and along what.

    Attributes:
        inputs: differentiated for. The second derivative is that of <tangent, gradient for the first of them>.
        constants: further arguments.
        cotangent: dL/dy; None where y is a scalar loss.
        tangent: shape of the first input.
    """

    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    cotangent: Tensor | None
    tangent: Tensor

    def double(self) -> Point:
        cotangent = None if self.cotangent is None else self.cotangent.double()
        constants = tuple(c.double() if c.is_floating_point() else c for c in self.constants)
        return Point(tuple(t.double() for t in self.inputs), constants, cotangent, self.tangent.double())


def run_of(mode: str, function: Callable[..., Tensor], point: Point) -> Run:
    """Run of ``function(*inputs, *constants)`` in one of the modes; "full" is forward and backward."""
    if mode == "full":
        return lambda: _full(function, point)
    inputs = [t.detach().requires_grad_() for t in point.inputs]
    if mode == "forward":
        return lambda: (function(*inputs, *point.constants),)
    y = function(*inputs, *point.constants)
    if mode == "backward":
        return lambda: grad(y, inputs, point.cotangent, retain_graph=True)
    if point.cotangent is None:
        wanted, cotangent = inputs[:1], None
    else:  # a layer: what Algorithm 1 sends on to the layers behind it, and to the weight
        cotangent = point.cotangent.detach().requires_grad_()
        wanted = [cotangent, inputs[1]]
    (gradient,) = grad(y, inputs[:1], cotangent, create_graph=True)
    return lambda: grad(gradient, wanted, point.tangent, retain_graph=True)


def _full(function: Callable[..., Tensor], point: Point) -> tuple[Tensor, ...]:
    inputs = [t.detach().requires_grad_() for t in point.inputs]
    y = function(*inputs, *point.constants)
    return y, *grad(y, inputs, point.cotangent)
