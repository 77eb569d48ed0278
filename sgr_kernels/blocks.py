"""Chains of affine layers with or without a ReLU, and their closed-form derivatives (Eq. 35 and what it leaves out).

With A_l = dL/dz_l, the gated upstream gradients, and V = dL_SGR/d delta, the SGR gradient of layer l is

    A_l^T U_{l-1}  +  (C_l D_l)^T Y_{l-1},      U_0 = V,  U_l = (U_{l-1} W_l^T) D_l,

where C_L is the Hessian of the local loss applied to U_L and C_{l-1} = (C_l D_l) W_l. The first term is Eq. 35, which
takes the upstream gradient for a constant; Algorithm 1 computes both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import reference
from .affine import AffineMap
from .ops.gate import relu_backward


@dataclass
class Block:
    """y = relu(W x + b), or without the ReLU."""

    affine: AffineMap
    weight: Tensor
    bias: Tensor | None
    relu: bool

    def to(self, dtype: torch.dtype) -> Block:
        return Block(self.affine, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype), self.relu)

    def forward(self, x: Tensor) -> Tensor:
        y = self.affine.forward(x, self.weight, self.bias)
        return y.relu_() if self.relu else y

    def gate(self, grad: Tensor, output: Tensor, sum_features: bool = False) -> tuple[Tensor, Tensor | None]:
        """dL/dz from dL/dy, and its sum over samples and positions: the gradient of the bias."""
        if self.relu:
            return relu_backward(grad.to(output.dtype), output, self.affine.features_last, sum_features)
        sums = reference.sum_but_features(grad, self.affine.features_last) if sum_features else None
        return grad.to(output.dtype), sums

    def tangent(self, v: Tensor, output: Tensor) -> Tensor:
        """Change of the output for a change v of the input, with frozen gates."""
        z = self.affine.forward(v, self.weight)
        return relu_backward(z, output, self.affine.features_last, False)[0] if self.relu else z

    def input_grad(self, a: Tensor, x: Tensor) -> Tensor:
        return self.affine.input_grad(a, self.weight, x)

    def weight_grad(self, a: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
        return self.affine.weight_grad(a, self.weight, x, total)


class Chain:
    """Blocks one after the other. Activations are the list [x, y_1, ..., y_L]."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks

    def float(self) -> Chain:
        """The same in float32."""
        return Chain([block.to(torch.float32) for block in self.blocks])

    def forward(self, x: Tensor) -> list[Tensor]:
        activations = [x]
        for block in self.blocks:
            activations.append(block.forward(activations[-1]))
        return activations

    def backward(self, activations: list[Tensor], grad: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """dL/dz and its channel sums (where there is a bias), for every block, from dL/dy of the last."""
        gated: list[Tensor] = []
        sums: list[Tensor | None] = []
        for index in reversed(range(len(self.blocks))):
            block = self.blocks[index]
            a, total = block.gate(grad, activations[index + 1], block.bias is not None)
            gated.insert(0, a)
            sums.insert(0, total)
            if index > 0:
                grad = block.input_grad(a, activations[index])
        return gated, sums

    def tangents(self, activations: list[Tensor], v: Tensor, count: int) -> list[Tensor]:
        """[U_0 = v, ..., U_count]: changes of the activations for a change v of the input."""
        changes = [v]
        for block, output in zip(self.blocks[:count], activations[1:], strict=False):
            changes.append(block.tangent(changes[-1], output))
        return changes
