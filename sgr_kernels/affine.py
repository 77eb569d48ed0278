"""The affine map of a linear layer and that of a convolution, by the libraries torch uses (oneDNN, MKL, cuBLAS, cuDNN).

Whatever is the same for both is written against :class:`AffineMap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class AffineMap(Protocol):
    """z = W x + b, and its two derivatives from ``grad_z`` = dL/dz: one matrix product each."""

    features_last: bool  # whether the features of z are its last dimension, or its second

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def input_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """dL/dx. Only the shape of ``x`` matters."""
        ...

    def weight_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        """dL/dW, added into ``total`` where there is one. Only the shape of ``weight`` matters."""
        ...


@dataclass(frozen=True)
class Linear:
    """x (..., n), weight (m, n), bias (m,), z (..., m)."""

    features_last = True

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return torch.matmul(grad_z, weight)

    def weight_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        grad_z, x = grad_z.flatten(0, -2).T, x.flatten(0, -2)
        return grad_z @ x if total is None else torch.addmm(total, grad_z, x, out=total)


@dataclass(frozen=True)
class Conv2d:
    """x (B, C, H, W), weight (m, C / groups, kH, kW), bias (m,), z (B, m, H', W'); zero padding."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    features_last = False

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def input_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return self._backward(grad_z, weight, x, [True, False, False])[0]

    def weight_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        grad = self._backward(grad_z, weight, x, [False, True, False])[1]
        return grad if total is None else total.add_(grad)

    def _backward(self, grad_z: Tensor, weight: Tensor, x: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            grad_z, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups, wanted
        )
