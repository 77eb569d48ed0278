"""What every engine needs: the result type, the parameters it serves, and writing their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..functional.direction import row_norms
from ..graph import nodes_behind
from ..operators.common.options import Options
from ..torch_internals import foreach_add_, storage_key


class LocalStep(NamedTuple):
    """Result of :func:`sgr_kernels.local_step`; every tensor is detached.

    Attributes:
        loss: 0-d local loss L_k.
        sgr: 0-d unweighted SGR loss L_k^SGR; None where ``delta_pre`` was None.
        output: x_k, the next module's input.
        delta_out: dL_k/dx_k, the next module's ``delta_pre``; None where ``need_delta_out`` was False.
    """

    loss: Tensor
    sgr: Tensor | None
    output: Tensor
    delta_out: Tensor | None


class Settings(NamedTuple):
    """What every engine is told; see :func:`sgr_kernels.local_step`, which checks it."""

    weight: float
    normalize: bool
    reduction: str
    relative_floor: float
    grad_scale: float
    need_delta_out: bool

    def options(self, delta: Tensor) -> Options:
        """How ``delta``, unscaled, is compared. The floor is a constant of the step."""
        floor: float | Tensor = 0.0
        if self.relative_floor > 0 and delta.numel() > 0:
            floor = self.relative_floor * row_norms(delta.detach()).square().mean().sqrt()
        return Options(self.normalize, self.reduction, floor)


def check_scalar(loss: Tensor) -> None:
    if loss.numel() != 1:
        raise ValueError(f"head must return a scalar loss, got shape {tuple(loss.shape)}")


def in_one_precision(delta_now: Tensor, delta_pre: Tensor) -> tuple[Tensor, Tensor]:
    """Two modules may have run in different precisions (autocast, unscaled float16): they meet in the wider one."""
    dtype = torch.promote_types(delta_now.dtype, delta_pre.dtype)
    return delta_now.to(dtype), delta_pre.detach().to(dtype)


def trainable(parts: Iterable[nn.Module | Callable], loss: Tensor) -> list[Tensor]:
    """Leaf parameters of the modules among ``parts``; for other callables, the leaves that ``loss`` reaches."""
    found: dict[Tensor, None] = {}
    for part in parts:
        if isinstance(part, nn.Module):
            found.update((p, None) for p in part.parameters() if p.requires_grad)
        else:
            found.update((leaf, None) for leaf in _parameters_behind(loss))
    return list(found)


def _parameters_behind(loss: Tensor) -> list[Tensor]:
    variables = (getattr(node, "variable", None) for node in nodes_behind([loss]))
    return [variable for variable in variables if isinstance(variable, nn.Parameter)]


def add_gradients(parameters: list[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Add into ``.grad`` without running hooks, as ``backward`` would: a missing gradient leaves ``.grad`` alone."""
    old, new, taken = [], [], set()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = memory_of_its_own(gradient.detach(), taken)
        else:
            old.append(parameter.grad)
            new.append(gradient)
    if old:
        foreach_add_(old, new)


def memory_of_its_own(gradient: Tensor, taken: set[int]) -> Tensor:
    """The gradient, or a copy where it overlaps with itself (an expanded sum) or with one handed out before."""
    storage = storage_key(gradient)
    if storage in taken or 0 in gradient.stride():
        return gradient.clone(memory_format=torch.contiguous_format)
    taken.add(storage)
    return gradient


def unscale(gradient: Tensor | None, scale: float) -> Tensor | None:
    """Undo the gradient scale; in float32 where the unscaled gradient may underflow float16."""
    if gradient is None or scale == 1.0:
        return gradient
    if gradient.dtype == torch.float16:
        gradient = gradient.float()
    return gradient / scale
