"""SGR without a double backward: the derivative of the ordinary gradient along v, by one more ordinary pass.

v = dL_SGR / d delta is a constant, so what Algorithm 1 adds to the gradient G(x) of the local loss is

    weight * d/d theta <v, dL/dx>  =  weight * d/dh G(x + h v)  ~  weight / h * (G(x + h v) - G(x)),

or, of second order, weight / 2h * (G(x + h v) - G(x - h v)). Algorithm 1 takes gates for constants, and so do the
further passes: see :mod:`sgr_kernels.gates`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..functional.residual import Direction, row_norms, sgr_direction
from ..gates import Record, Replay
from ..gates.checkpointing import recomputing_along
from ..gates.functions import refuse_undeclared
from . import autograd
from .common import (
    LocalStep,
    add_gradients,
    check_scalar,
    in_one_precision,
    memory_of_its_own,
    residual_floor,
    trainable,
    unscale,
)
from .pass_state import PassState


def local_step(
    body: nn.Module | Callable[[Tensor], Tensor],
    head: nn.Module | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta_pre: Tensor | None,
    *,
    weight: float,
    normalize: bool,
    reduction: str,
    relative_floor: float,
    grad_scale: float,
    need_delta_out: bool,
    radius: float | None,
    order: int,
) -> LocalStep:
    """See :func:`sgr_kernels.local_step`; arguments are checked there."""
    options = {"normalize": normalize, "reduction": reduction}
    if delta_pre is None:
        common = {"weight": weight, "relative_floor": relative_floor, "grad_scale": grad_scale}
        return autograd.local_step(body, head, x, y, None, **options, **common, need_delta_out=need_delta_out)
    passes = _Passes(body, head, y, grad_scale, x.device)
    loss, output, gradients, delta_now, delta_out = passes.record(x.detach(), need_delta_out)
    delta_now = unscale(delta_now, grad_scale)
    floor = residual_floor(delta_now, relative_floor)
    sgr, direction = sgr_direction(*in_one_precision(delta_now, delta_pre), **options, floor=floor)
    if gradients and x.numel() > 0:
        step = _step(x.detach(), delta_now, direction, radius, order, passes.parameters)
        points = [direction.shift(x.detach(), sign * step.length) for sign in (1, -1)[:order]]
        del delta_now, direction  # the passes need the memory
        gradients = _reconciled(passes, gradients, points, weight * step.rate)
    add_gradients(passes.parameters, gradients)
    return LocalStep(loss, sgr, output, unscale(delta_out, grad_scale) if need_delta_out else None)


# Bodies with the heads with which they were found to do the same in two passes
_TRUSTED: weakref.WeakKeyDictionary[Callable, weakref.WeakSet[Callable]] = weakref.WeakKeyDictionary()


class _First(NamedTuple):
    """Results of the recorded pass. Gradients are those of the scaled loss."""

    loss: Tensor
    output: Tensor
    gradients: list[Tensor | None]  # of the parameters
    delta_now: Tensor  # of x
    delta_out: Tensor | None  # of the output


class _Passes:
    """Passes over one module that start from the same state. The first records decisions, the others replay them."""

    def __init__(self, body: Callable, head: Callable, y: Tensor, grad_scale: float, device: torch.device) -> None:
        self.body, self.head, self.y, self.grad_scale = body, head, y, grad_scale
        self.state = PassState((body, head), device)
        self.start = self.state.save()
        self.tape: list = []
        self.parameters: list[Tensor] = []

    def record(self, x: Tensor, need_delta_out: bool) -> _First:
        x.requires_grad_()
        gates = Record(x)
        with torch.enable_grad(), recomputing_along(gates):
            with gates:
                output, loss = self._forward(x)
            trusted = self.head in _TRUSTED.get(self.body, ())
            if not trusted:
                refuse_undeclared(loss)
            self.tape, self.parameters = gates.tape, trainable((self.body, self.head), loss)
            _check_precision(self.parameters)
            wanted = [*self.parameters, x, *([output] if need_delta_out else [])]
            gradients = list(torch.autograd.grad(self.grad_scale * loss, wanted, allow_unused=True))
        delta_out = gradients.pop() if need_delta_out else None
        delta_now = gradients.pop()
        if delta_now is None:
            raise ValueError("the local loss does not depend on x: there is no gradient to reconcile")
        self.end = self.state.save()
        if not trusted:
            self._verify(x.detach(), output.detach(), loss.detach())
        return _First(loss.detach(), output.detach(), gradients, delta_now, delta_out)

    def gradients(self, x: Tensor) -> list[Tensor | None]:
        """Of the scaled loss at another x, with the recorded decisions."""
        with self._replayed(x) as (_, loss):
            return list(torch.autograd.grad(self.grad_scale * loss, self.parameters, allow_unused=True))

    @contextlib.contextmanager
    def _replayed(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Output and loss at another x, with the recorded decisions and, afterwards, the state of one pass."""
        self.state.load(self.start)
        gates = Replay(self.tape)
        try:
            with torch.enable_grad(), recomputing_along(gates):
                with gates:
                    output, loss = self._forward(x)
                gates.check_finished()
                yield output, loss
        finally:
            self.state.load(self.end)

    def _verify(self, x: Tensor, *first: Tensor) -> None:
        """Once for a body and a head: whether a second pass over the same x does the same.

        Hidden state, or random numbers of other sources, would pass for a derivative.
        """
        if not all(tensor.isfinite().all() for tensor in first):
            return
        with self._replayed(x) as second:
            for name, before, now in zip(("output", "loss"), first, second, strict=True):
                change, size = (now.detach() - before).double().norm(), before.double().norm()
                if not change <= size * _coarsest(x, self.parameters) ** 0.5:
                    raise RuntimeError(
                        f"two passes over the same input differ by {float(change / size):.0e} in their {name}: the "
                        "module is not deterministic, or keeps state outside of its buffers; use engine='autograd'"
                    )
        _TRUSTED.setdefault(self.body, weakref.WeakSet()).add(self.head)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = self.body(x)
        loss = self.head(output, self.y)
        check_scalar(loss)
        return output, loss


def _reconciled(passes: _Passes, first: list[Tensor | None], points: list[Tensor], factor: Tensor):
    """``first``, of x, plus ``factor`` times its change from x to x + h v, or half of that from x - h v: the points."""
    order = len(points)
    far = passes.gradients(points.pop(0))
    near = passes.gradients(points.pop(0)) if points else first
    used = [i for i, three in enumerate(zip(far, near, first, strict=True)) if all(g is not None for g in three)]
    if not used:
        return first
    taken: set[int] = set()
    change = [memory_of_its_own(far[i], taken) for i in used]
    torch._foreach_sub_(change, [near[i] for i in used])
    torch._foreach_mul_(change, factor / order)
    torch._foreach_add_(change, [first[i] for i in used])
    result = list(first)
    for i, gradient in zip(used, change, strict=True):
        result[i] = gradient
    return result


class _Step(NamedTuple):
    length: Tensor  # h, 0-d float64
    rate: Tensor  # 1 / h; 0 where there is nowhere to go


# Default steps, relative to |x_b|. With rho_b = |v_b| / |x_b|, h rho_b is the step of sample b, and rho_b |delta_b|, up
# to a factor, is what it adds to the SGR gradient. Rounding errors are some eps sum_b |delta_b| / h, the next term of
# the Taylor series is some h sum_b rho_b^2 |delta_b|: they balance where h times the root of the mean of rho^2, with
# weights |delta|, is sqrt(eps). As v_b is as long as delta_b is short, confident samples go much further than others;
# but none goes beyond LARGEST, where a step would be no derivative any more.
TYPICAL = {1: 1.0, 2: 3.0}  # in units of sqrt(eps); the second order leaves out the even terms
LARGEST = 0.05


def _step(
    x: Tensor, delta: Tensor, direction: Direction, radius: float | None, order: int, parameters: Iterable[Tensor]
) -> _Step:
    """``radius``: largest step of a sample with |x_b| > 0."""
    x_norms = row_norms(x)
    ratios = torch.where(x_norms == 0, 0.0, direction.norms() / x_norms)
    rate = ratios.amax() / (LARGEST if radius is None else radius)
    if radius is None:
        sizes = row_norms(delta)
        typical = ((sizes * ratios.square()).sum() / sizes.sum().clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt()
        rate = torch.maximum(rate, typical / (TYPICAL[order] * _coarsest(x, parameters) ** 0.5))
    return _Step(torch.where(rate == 0, 0.0, 1 / rate), rate)


def _coarsest(x: Tensor, parameters: Iterable[Tensor]) -> float:
    """Relative spacing of numbers in the lowest precision that takes part."""
    dtypes = {x.dtype, *(p.dtype for p in parameters)}
    if torch.is_autocast_enabled(x.device.type):
        dtypes.add(torch.get_autocast_dtype(x.device.type))
    return max(torch.finfo(dtype).eps for dtype in dtypes)


def _check_precision(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"engine='directional' cannot take differences of {parameter.dtype} gradients: keep the parameters in "
                "float32 and use autocast, or use engine='autograd'"
            )
