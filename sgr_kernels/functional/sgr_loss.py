"""sgr_loss and sgr_residual: argument checks and layout."""

import warnings

import torch
from torch import Tensor

from ..operators.common.checks import check_floating, check_match
from ..operators.common.options import Options
from ..operators.sgr_loss import sgr_loss as loss_operator
from ..operators.sgr_residual import sgr_residual as residual_operator
from ..torch_internals import constant_when_compiled, in_transform, leaf_of_fx, not_scriptable
from .rows import as_rows, from_rows


@not_scriptable
def sgr_loss(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    r"""Successive-gradient-reconciliation loss: per-sample (normalised) squared distance of two gradients.

    With rows flattened to :math:`\delta_b, g_b \in R^n` and their cosine :math:`c_b`, ``reduction="mean"`` gives
    :math:`\frac{2}{Bn}\sum_b w_b (1 - c_b)`, the loss of Algorithm 1 in Yang et al. 2024; ``"batchmean"`` gives
    :math:`\frac{2}{B}\sum_b w_b (1 - c_b)` (Eq. 6 per sample) and ``"sum"`` :math:`2\sum_b w_b (1 - c_b)`.

    Differentiable in both arguments, to any order. Autocast leaves it alone: it accumulates in float64 anyway.
    Warns where gradients are enabled and neither argument requires one.

    Args:
        delta: (B, ...) gradient of the current module with respect to its input; float64, float32, bfloat16 or float16,
            any strides.
        target: same shape, dtype and device; the gradient the previous module had for its output.
        normalize: compare directions. A row whose norm (in either argument) is at most ``eps`` is dead: it adds
            nothing and gets gradient 0. ``False`` compares the gradients themselves (Eq. 6, a sample at a time; twice
            the loss of Eq. 35, which has 1/2).
        reduction: "mean", "batchmean" or "sum".
        floor: a norm, in the units of ``delta``; rows with a smaller norm fade out with weight
            :math:`w_b = \min(1, (|\delta_b| / floor)^2)`, a constant in every derivative. 0 switches it off.
            Number or 0-d tensor.
        eps: norm at or below which a row is dead.

    Returns:
        0-d loss, float32 (float64 for float64 input).

    Raises:
        TypeError: an argument is not a floating-point tensor of a supported dtype, or the dtypes differ.
        ValueError: shapes or devices differ, a scalar was given, or an option is out of range.
    """
    value = loss(delta, target, Options(normalize, reduction, floor, eps))
    warn_without_graph(value)
    return value


@not_scriptable
def sgr_residual(
    delta: Tensor,
    target: Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    floor: float | Tensor = 0.0,
    eps: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """:func:`sgr_loss` and its gradient v = dL/d delta in one pass over the data, without an autograd graph.

    Args and errors: as :func:`sgr_loss`.

    Returns:
        ``(loss, v)``: the 0-d loss, and v of the shape of ``delta``, float32 (float64 for float64 input).
    """
    return residual(delta, target, Options(normalize, reduction, floor, eps))


@leaf_of_fx
def loss(delta: Tensor, target: Tensor, options: Options) -> Tensor:
    """:func:`sgr_loss` with its options in one value."""
    check_pair(delta, target, options)
    return loss_operator(*as_rows(delta, target), *options.arguments(delta))[0]


@leaf_of_fx
def residual(delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """:func:`sgr_residual` with its options in one value."""
    check_pair(delta, target, options)
    rows, target_rows = as_rows(delta.detach(), target.detach())
    value, v = residual_operator(rows, target_rows, *options.arguments(delta))
    return value, from_rows(v, delta)


def warn_without_graph(value: Tensor) -> None:
    """Warn of an SGR loss that nothing can be trained by, although gradients are enabled: ``delta`` has no graph."""
    if value.requires_grad is False and torch.is_grad_enabled():  # neither true nor false of a Proxy of torch.fx
        _warn_without_graph()


@constant_when_compiled  # compiled code warns while it is traced
def _warn_without_graph() -> None:
    if not in_transform():
        warnings.warn(
            "the SGR loss has no gradient, as neither delta nor target requires one: take delta by "
            "torch.autograd.grad(..., create_graph=True), or call it under torch.no_grad() for its value alone",
            stacklevel=4,
        )


def check_pair(delta: Tensor, target: Tensor, options: Options) -> None:
    """Raises TypeError or ValueError where the two cannot be compared."""
    for name, tensor in (("delta", delta), ("target", target)):
        check_floating(name, tensor)
        if tensor.dim() == 0:
            raise ValueError(f"{name} must have a batch dimension, got a scalar")
    if delta.shape != target.shape:
        raise ValueError(f"target must have the shape of delta {tuple(delta.shape)}, got {tuple(target.shape)}")
    check_match("target", target, "delta", delta)
    options.check()
