"""The affine map z = W x + b of a linear layer, and that of a convolution, by the libraries of torch.

Both classes have the same methods. Each method but ``output_shape`` is one matrix product; grad_z is dL/dz.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """x (..., n), weight (m, n), bias (m,), z (..., m)."""

    features_last = True

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        return *x.shape[:-1], len(weight)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """dL/dx; only the shape of ``x`` matters."""
        return torch.matmul(grad_z, weight)

    def weight_grad(self, grad_z: Tensor, weight: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        """dL/dW, added into ``total`` where there is one; only the shape of ``weight`` matters."""
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

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        sizes = zip(x.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        positions = ((n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, pad, dilation in sizes)
        return len(x), len(weight), *positions

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


AffineMap = Linear | Conv2d
