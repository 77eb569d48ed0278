"""What the engines share: the types of what a step gets and gives, and how gradients reach the parameters."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..functional.direction import row_norms
from ..gates.origins import nodes_behind
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


class StepInputs(NamedTuple):
    """The module and the batch of one step, as :func:`sgr_kernels.local_step` documents and checks them.

    Attributes:
        target: ``delta_pre``, shape of ``x``; None: no SGR term.
    """

    body: nn.Module | Callable[[Tensor], Tensor]
    head: nn.Module | Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    target: Tensor | None


class StepOptions(NamedTuple):
    """The options of one step, as :func:`sgr_kernels.local_step` documents and checks them."""

    sgr_weight: float
    normalize: bool
    reduction: str
    relative_floor: float
    grad_scale: float
    radius: float | None
    order: int
    curvature: str
    need_delta_out: bool

    def comparison(self, delta: Tensor) -> Options:
        """How ``delta`` (B, ...), without the gradient scale, is compared with the target; the floor is a constant."""
        floor: float | Tensor = 0.0
        if self.relative_floor > 0 and delta.numel() > 0:
            floor = self.relative_floor * row_norms(delta.detach()).square().mean().sqrt()
        return Options(self.normalize, self.reduction, floor)


def check_scalar(loss: Tensor) -> None:
    if loss.numel() != 1:
        raise ValueError(f"head must return a scalar loss, got shape {tuple(loss.shape)}")


def in_wider_dtype(delta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their dtypes: the two modules may have run in different precisions."""
    dtype = torch.promote_types(delta.dtype, target.dtype)
    return delta.to(dtype), target.detach().to(dtype)


def trainable(parts: Iterable[nn.Module | Callable], loss: Tensor) -> list[Tensor]:
    """The parameters to train, each once: those of the modules among ``parts``, and for a part that is another
    callable those in the graph of ``loss``.
    """
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, nn.Module):
            found += [parameter for parameter in part.parameters() if parameter.requires_grad]
        else:
            leaves = (getattr(node, "variable", None) for node in nodes_behind([loss]))
            found += [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]
    return list(dict.fromkeys(found))


def add_gradients(parameters: list[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Add into ``.grad`` as ``backward`` would, but without running hooks. None leaves ``.grad`` as it is."""
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
    """The gradient, or a copy of it where it shares memory with itself (an expanded sum) or with an earlier one.

    Args:
        taken: keys of the storages of the earlier gradients; that of the result is added.
    """
    storage = storage_key(gradient)
    if storage in taken or 0 in gradient.stride():
        return gradient.clone(memory_format=torch.contiguous_format)
    taken.add(storage)
    return gradient


def unscale(gradient: Tensor | None, scale: float) -> Tensor | None:
    """``gradient / scale``, in float32 for a float16 gradient, which may underflow."""
    if gradient is None or scale == 1.0:
        return gradient
    if gradient.dtype == torch.float16:
        gradient = gradient.float()
    return gradient / scale
