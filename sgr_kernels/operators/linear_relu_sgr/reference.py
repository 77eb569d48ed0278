"""The two products of Eq. 35 in plain PyTorch, in float64."""

import torch
from torch import Tensor

from ..common.checks import loss_dtype
from ..sgr_loss.reference import combine, sgr_loss_with_coefficients


def linear_relu_delta(grad: Tensor, output: Tensor, weight: Tensor, target: Tensor, *arguments) -> tuple[Tensor, ...]:
    """Implementation of ``sgr_reference::linear_relu_delta``."""
    delta = (_behind_relu(grad, output) @ weight.double()).to(grad.dtype)
    return delta, *sgr_loss_with_coefficients(delta, target, *arguments)


def linear_relu_weight_grad(
    grad: Tensor,
    output: Tensor,
    x: Tensor,
    delta: Tensor,
    target: Tensor,
    alpha: Tensor,
    beta: Tensor,
    factor: float,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    """Implementation of ``sgr_reference::linear_relu_weight_grad``."""
    a = _behind_relu(grad, output)
    weight = a.T @ (x.double() + factor * combine(delta, target, alpha, beta))
    dtype = loss_dtype(grad)
    return weight.to(dtype), a.sum(0).to(dtype) if need_bias else grad.new_empty(0, dtype=dtype)


def _behind_relu(grad: Tensor, output: Tensor) -> Tensor:
    return torch.where(output <= 0, 0.0, grad.double())
