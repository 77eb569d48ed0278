"""The residual and the direction it gives: sgr_loss, sgr_residual, x + h v."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sgr_kernels as sk
from sgr_kernels.functional.direction import sgr_direction
from sgr_kernels.operators.common.options import DEFAULT
from sgr_kernels.operators.sgr_loss import sgr_loss, sgr_loss_backward
from sgr_kernels.operators.sgr_residual import sgr_residual
from sgr_kernels.operators.sgr_shift import sgr_shift

from .. import reference
from .case import Case, Op, Results, Run, Way, nbytes
from .derivatives import MODES, Point, run_of
from .providers import compiled, of_backends, through

# How many tensors of N elements have to be read and written. The full mode is two operators, as autograd wants it.
LOSS_TENSORS = {"forward": 2, "backward": 3, "double backward": 4, "full": 5}
LARGE = 2**22  # elements from which the reference takes so long that it is left out


@dataclass(frozen=True)
class Rows:
    """``other`` is the tangent of the second derivative, and the x of the direction."""

    delta: Tensor
    target: Tensor
    other: Tensor

    @property
    def device(self) -> str:
        return self.delta.device.type

    @functools.cached_property
    def truth(self) -> Results:
        """Loss and v in float64."""
        return reference.sgr_residual(self.delta.double(), self.target.double())

    def reference(self, make: Callable[[], Run], truth: Run) -> dict[str, Way]:
        return {"reference": Way(make, truth)} if self.delta.numel() < LARGE else {}


def rows(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Rows:
    return Rows(*(torch.randn(shape, device=device).to(dtype) for _ in range(3)))


def eager(delta: Tensor, target: Tensor) -> Tensor:
    """The residual as Algorithm 1 is published, in the dtype of its arguments."""
    delta = delta / torch.sqrt(torch.sum(delta**2, dim=1, keepdim=True))
    target = target / torch.sqrt(torch.sum(target**2, dim=1, keepdim=True))
    return torch.nn.functional.mse_loss(delta, target)


def loss_case(mode: str, inputs: Rows) -> Case:
    point = Point((inputs.delta,), (inputs.target,), None, inputs.other)

    def make(function: Callable[..., Tensor]) -> Run:
        return run_of(mode, function, point)

    @functools.cache
    def truth() -> Results:
        if mode == "double backward":
            return run_of(mode, reference.sgr_loss, point.double())()
        loss, v = inputs.truth
        return {"forward": (loss,), "backward": (v,), "full": (loss, v)}[mode]

    ways = {
        "eager": Way(lambda: make(eager), truth),
        **of_backends(inputs.device, lambda: make(sk.sgr_loss), truth),
        **inputs.reference(lambda: make(reference.sgr_loss), truth),
    }
    if mode != "double backward":
        ways["torch.compile"] = Way(lambda: make(compiled(eager)), truth)
    return Case(ways, "eager", LOSS_TENSORS[mode] * inputs.delta.nbytes)


def eager_residual(delta: Tensor, target: Tensor) -> Results:
    """Loss and v = dL/d delta by their formulas, in float32: v is larger than float16 goes."""
    delta, target = delta.float(), target.float()
    norm = torch.sqrt(torch.sum(delta**2, dim=1, keepdim=True))
    delta, target = delta / norm, target / torch.sqrt(torch.sum(target**2, dim=1, keepdim=True))
    cosine = torch.sum(delta * target, dim=1, keepdim=True)
    return torch.nn.functional.mse_loss(delta, target), 2 / delta.numel() / norm * (cosine * delta - target)


def residual_case(mode: str, inputs: Rows) -> Case:
    delta, target = inputs.delta, inputs.target

    def make(function: Callable[..., Results]) -> Run:
        return functools.partial(function, delta, target)

    def truth() -> Results:
        return inputs.truth

    ways = {
        "eager": Way(lambda: make(eager_residual), truth),
        "torch.compile": Way(lambda: make(compiled(eager_residual)), truth),
        **of_backends(inputs.device, lambda: make(sk.sgr_residual), truth),
        **inputs.reference(lambda: make(reference.sgr_residual), truth),
    }
    return Case(ways, "eager", nbytes(delta, target) + 4 * delta.numel())  # v is float32


def eager_shift(x: Tensor, delta: Tensor, target: Tensor, alpha: Tensor, beta: Tensor) -> Results:
    """x + h v with v in memory; alpha and beta hold h."""
    return ((x + (alpha * delta + beta * target)).to(x.dtype),)


def coefficients(delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1) each: v = alpha delta + beta target."""
    delta, target = delta.double(), target.double()
    norms = [torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (delta, target)]
    beta = -2 / delta.numel() / (norms[0] * norms[1])
    return -beta * (delta * target).sum(1, keepdim=True) / norms[0].square(), beta


def shift_case(mode: str, inputs: Rows) -> Case:
    delta, target, x = inputs.delta, inputs.target, inputs.other
    step = delta.numel() * delta[0].numel() / 4  # h v is about half as long as x

    def make() -> Run:
        _, direction = sgr_direction(delta, target, DEFAULT)
        return lambda: (direction.shift(x, step),)

    def make_eager(function: Callable[..., Results]) -> Run:
        alpha, beta = ((step * coef).float() for coef in coefficients(delta, target))
        return functools.partial(function, x, delta, target, alpha, beta)

    @functools.cache
    def truth() -> Results:
        return (x.double() + step * inputs.truth[1],)

    ways = {
        "eager": Way(lambda: make_eager(eager_shift), truth),
        "torch.compile": Way(lambda: make_eager(compiled(eager_shift)), truth),
        **of_backends(inputs.device, make, truth),
        **inputs.reference(lambda: through("reference", inputs.device, make), truth),
    }
    return Case(ways, "eager", nbytes(x, delta, target) + x.nbytes)


OPS = {
    "sgr_loss": Op(MODES, rows, loss_case, (sgr_loss, sgr_loss_backward)),
    "sgr_residual": Op(("full",), rows, residual_case, (sgr_residual,)),
    "sgr_shift": Op(("forward",), rows, shift_case, (sgr_shift,)),
}
