"""cross_entropy of local heads: the loss, its gradient, and its Hessian applied to a tangent."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import sgr_kernels as sk
from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.cross_entropy import cross_entropy, cross_entropy_hvp

from .. import reference
from .case import Case, Op, Run, Way, nbytes
from .derivatives import Point, run_of
from .providers import compiled, kernels, of_backends

MODES = ("forward", "backward", "hessian", "full")
# How often the logits or something of their size is read or written. The full mode is two operators.
TENSORS = {"forward": 1, "backward": 2, "full": 3}


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Point:
    """Shape (B, K). The tangent is float32 also for half precision, as the gradient is."""
    logits = torch.randn(shape, device=device).to(dtype)
    tangent = torch.randn(shape, device=device).to(loss_dtype(logits))
    labels = torch.randint(shape[1], shape[:1], device=device)
    return Point((logits,), (labels,), None, tangent)


def case(mode: str, point: Point) -> Case:
    (logits,), (labels,) = point.inputs, point.constants
    if mode == "hessian":
        return Case(_hessian(point), "eager", nbytes(logits, point.tangent, point.tangent))
    return Case(_derivatives(mode, point), "eager", TENSORS[mode] * logits.nbytes + nbytes(labels))


def eager(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def eager_hessian(logits: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
    """The formula; labels do not matter."""
    p = logits.softmax(1)
    return p * (tangent - (p * tangent).sum(1, keepdim=True)) / len(logits)


def _derivatives(mode: str, point: Point) -> dict[str, Way]:
    def make(function: Callable[..., Tensor]) -> Run:
        return run_of(mode, function, point)

    truth = functools.cache(lambda: run_of(mode, eager, point.double())())
    return {
        "reference": Way(lambda: make(reference.cross_entropy), truth),
        "eager": Way(lambda: make(eager), truth),
        "torch.compile": Way(lambda: make(compiled(eager)), truth),
        **of_backends(point.tangent.device.type, lambda: make(sk.cross_entropy), truth),
    }


def _hessian(point: Point) -> dict[str, Way]:
    def make(function: Callable[..., Tensor], point: Point = point) -> Run:
        return lambda: (function(*point.inputs, *point.constants, point.tangent),)

    truth = functools.cache(make(reference.cross_entropy_hvp, point.double()))
    ways = {
        "reference": Way(lambda: make(reference.cross_entropy_hvp), truth),
        "eager": Way(lambda: make(eager_hessian), truth),
        "torch.compile": Way(lambda: make(compiled(eager_hessian)), truth),
    }
    for name, kernel in kernels(cross_entropy_hvp, point.tangent.device.type).items():
        ways[name] = Way(functools.partial(make, kernel), truth)
    return ways


OPS = {"cross_entropy": Op(MODES, inputs, case, (cross_entropy, cross_entropy_hvp))}
