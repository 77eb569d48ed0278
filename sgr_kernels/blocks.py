"""Chains of affine layers with or without a ReLU: their gradients for a loss L and its SGR loss, in closed form.

With A_l = dL/dz_l of layer l, its gates D_l and its input X_l, and V = dL_SGR/d delta for delta = A_1 W_1,

    dW_l = A_l^T (X_l + U_l)  +  (C_l D_l)^T X_l,        U_1 = V,           U_{l+1} = (U_l W_l^T) D_l,
    db_l = sum of A_l  +  sum of C_l D_l,                C_L = H U_{L+1},   C_{l-1} = (C_l D_l) W_l,

where U is the tangent of the activations along V, with frozen gates, and H the Hessian of L with respect to the output
of layer L. A^T X belongs to L. A^T U is Eq. 35, which takes dL/dy for a constant; C is the curvature that it leaves
out. Algorithm 1 computes all of them. A weight of the SGR loss is a factor of V.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .affine import AffineMap
from .functional.relu_layers import cast_for_autocast
from .operators.common.dtypes import loss_dtype
from .operators.relu_backward import through_relu


@dataclass(eq=False)
class Block:
    """y = relu(z) or y = z of z = W x + b, and what a step knows of it.

    Attributes:
        weight, bias: parameters; their gradients are computed if they require one.
        matrix: the weight as autocast casts it.
        x, y: input and output.
        grad_z: A = dL/dz, from the backward pass to the product with it.
        grad_weight, grad_bias: the terms that are added up so far; None: none yet.
    """

    affine: AffineMap
    weight: Tensor
    bias: Tensor | None
    relu: bool
    matrix: Tensor = field(init=False)
    x: Tensor = field(init=False)
    y: Tensor = field(init=False)
    grad_z: Tensor = field(init=False)
    grad_weight: Tensor | None = None
    grad_bias: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y, which is computed unless it is given."""
        self.matrix, bias = cast_for_autocast(self.weight, self.bias)
        if y is None:
            y = self.affine.forward(x, self.matrix, bias)
            y = y.relu_() if self.relu else y
        self.x, self.y = x, y
        return y

    def backward(self, grad: Tensor, add_bias: bool = True) -> None:
        """A from dL/dy; its sum over samples and positions into ``grad_bias``."""
        add_bias = add_bias and self.bias is not None and self.bias.requires_grad
        self.grad_z, total = self._gate(grad.to(self.y.dtype), add_bias)
        if add_bias:
            self.grad_bias = total if self.grad_bias is None else self.grad_bias + total

    def input_grad(self) -> Tensor:
        return self.affine.input_grad(self.grad_z, self.matrix, self.x)

    def tangent(self, change: Tensor) -> Tensor:
        """The change of y for a change of x, with frozen gates."""
        return self._gate(self.affine.forward(change, self.matrix), False)[0]

    def add_product(self, x: Tensor) -> None:
        """A^T x into ``grad_weight``, for an x of the shape of the input; A is let go."""
        if self.weight.requires_grad:
            self.grad_weight = self.affine.weight_grad(self.grad_z, self.matrix, x, self.grad_weight)
        del self.grad_z

    def _gate(self, grad: Tensor, sum_features: bool) -> tuple[Tensor, Tensor | None]:
        """``grad`` where the gates are open, shape of y, and its sums (m,) if wanted."""
        if self.relu:
            return through_relu(grad, self.y, self.affine.features_last, sum_features)
        return grad, _sum_but_features(grad, self.affine.features_last) if sum_features else None


@dataclass(eq=False)
class Chain:
    """Blocks one after the other.

    ``forward`` comes first. For L alone, ``add_gradients`` does the rest. With its SGR loss, ``backward`` gives delta,
    ``add_along`` adds all terms with A, and ``add_gradients`` those with C.

    Attributes:
        sgr_only: leave out the gradients of L itself.
    """

    blocks: list[Block]
    sgr_only: bool = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.forward(x)
        return x

    def backward(self, grad: Tensor) -> Tensor:
        """delta = dL/dx from dL/dy. Every block keeps its A."""
        for block in reversed(self.blocks):
            block.backward(grad, add_bias=not self.sgr_only)
            grad = block.input_grad()
        return grad

    def add_along(self, v: Tensor, to_output: bool) -> Tensor | None:
        """Adds A^T (X + U) of every block; the tangent of y, if it is wanted.

        Args:
            v: V, shape of x, as :func:`sgr_kernels.sgr_residual` gives it; its memory is used for X + U.
        """
        if self.blocks[0].x.dtype == torch.float16:  # which v may overflow
            self._to_float32()
        tangent = v.to(self.blocks[0].x.dtype)
        for block in self.blocks:
            # Every tensor is let go as soon as it has served: they are as large as the activations.
            change = tangent
            tangent = block.tangent(change) if to_output or block is not self.blocks[-1] else None
            block.add_product(change if self.sgr_only else change.add_(block.x))
        return tangent

    def add_gradients(self, grad: Tensor) -> None:
        """Adds A^T X and the sums of A of every block for ``grad`` = dL/dy, or those of C D for ``grad`` = C."""
        for block in reversed(self.blocks):
            block.backward(grad)
            if block is not self.blocks[0]:
                grad = block.input_grad()
            block.add_product(block.x)

    def _to_float32(self) -> None:
        x = self.blocks[0].x.float()
        for block in self.blocks:
            block.x, block.y = x, block.y.float()
            block.matrix, block.grad_z = block.matrix.float(), block.grad_z.float()
            x = block.y


def _sum_but_features(tensor: Tensor, features_last: bool) -> Tensor:
    """(..., m) or (B, m, ...) -> (m,), accumulated in float32 at least."""
    features = tensor.movedim(-1 if features_last else 1, 0)
    return features.reshape(len(features), -1).sum(1, dtype=loss_dtype(tensor))
