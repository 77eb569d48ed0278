"""The two affine maps of closed-form layers and their three products, by the libraries torch uses (oneDNN, MKL, cuBLAS,
cuDNN). Everything that is the same for linear layers and convolutions is written against this interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Product(Protocol):
    """z = W x, and the two products of its derivative with a = dL/dz."""

    features_last: bool  # whether the features of z are its last dimension, or its second

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def input_grad(self, a: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Of the shape of ``x``, whose values do not matter."""
        ...

    def weight_grad(self, a: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        """Of the shape of ``weight``, whose values do not matter; added into ``total`` where there is one."""
        ...


@dataclass(frozen=True)
class Linear:
    """x (..., n), weight (m, n), a (..., m)."""

    features_last = True

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_grad(self, a: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return torch.matmul(a, weight)

    def weight_grad(self, a: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        a, x = a.flatten(0, -2).T, x.flatten(0, -2)
        return a @ x if total is None else torch.addmm(total, a, x, out=total)


@dataclass(frozen=True)
class Conv2d:
    """x (B, C, H, W), weight (m, C / groups, kH, kW), a (B, m, H', W'); zero padding."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    features_last = False

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def input_grad(self, a: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return self._backward(a, weight, x, [True, False, False])[0]

    def weight_grad(self, a: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        grad = self._backward(a, weight, x, [False, True, False])[1]
        return grad if total is None else total.add_(grad)

    def _backward(self, a: Tensor, weight: Tensor, x: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            a, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups, mask
        )
