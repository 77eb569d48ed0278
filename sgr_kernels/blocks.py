"""Chains of affine layers with or without a ReLU: the gradients of a loss L and of its SGR loss in closed form.

With A_l = dL/dz_l of layer l, its gates D_l and its input X_l, and V = dL_SGR/d delta for delta = A_1 W_1,

    dW_l = A_l^T (X_l + U_l)  +  (C_l D_l)^T X_l,        U_1 = V,           U_{l+1} = (U_l W_l^T) D_l,
    db_l = sum of A_l  +  sum of C_l D_l,                C_L = H U_{L+1},   C_{l-1} = (C_l D_l) W_l,

where U_l is the change of X_l along V with frozen gates, and H the Hessian of L for the output of the last layer.
A^T X belongs to L. The other terms belong to the SGR loss, and Algorithm 1 computes all of them: A^T U is Eq. 35, which
treats dL/dy as constant, and the terms with C are the curvature that it leaves out. To weight the SGR loss, scale V.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .affine import AffineMap
from .functional.relu_layers import cast_for_autocast
from .operators.common.checks import loss_dtype
from .operators.relu_backward import through_relu


@dataclass(eq=False)
class Block:
    """y = relu(z) or y = z, for z = W x + b. It keeps what the methods need from each other.

    Attributes:
        wants_weight, wants_bias: whether their gradients are computed.
        matrix: the weight as autocast casts it.
        x, y: input and output.
        grad_z: A = dL/dz, or C D in its place; kept by ``backward`` until ``add_product``.
        grad_weight, grad_bias: the sums of the terms so far; None: no term yet.
    """

    affine: AffineMap
    weight: Tensor
    bias: Tensor | None
    relu: bool
    wants_weight: bool = True
    wants_bias: bool = True
    matrix: Tensor = field(init=False)
    x: Tensor = field(init=False)
    y: Tensor = field(init=False)
    grad_z: Tensor = field(init=False)
    grad_weight: Tensor | None = None
    grad_bias: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """y, which is computed if it is None."""
        self.matrix, bias = cast_for_autocast(self.weight, self.bias)
        if y is None:
            y = self.affine.forward(x, self.matrix, bias)
            y = y.relu_() if self.relu else y
        self.x, self.y = x, y
        return y

    def backward(self, grad: Tensor, sum_bias: bool = True) -> None:
        """A from ``grad`` = dL/dy. ``sum_bias``: add its sum over samples and positions to the gradient of the bias."""
        sum_bias = sum_bias and self.wants_bias
        self.grad_z, total = self._through_gates(grad.to(self.y.dtype), sum_bias)
        if sum_bias:
            self.grad_bias = total if self.grad_bias is None else self.grad_bias + total

    def input_grad(self) -> Tensor:
        """A W."""
        return self.affine.input_grad(self.grad_z, self.matrix, self.x)

    def tangent(self, change: Tensor) -> Tensor:
        """The change of y for a change of x, with frozen gates."""
        return self._through_gates(self.affine.forward(change, self.matrix), False)[0]

    def add_product(self, x: Tensor, free: bool = True) -> None:
        """Adds A^T x to the gradient of the weight, for an x of the shape of the input, and frees A."""
        if self.wants_weight:
            self.grad_weight = self.affine.weight_grad(self.grad_z, self.matrix, x, self.grad_weight)
        if free:
            del self.grad_z

    def take_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The parameters and the sums of the terms so far; the next sums begin at 0."""
        pairs = [(self.weight, self.grad_weight), (self.bias, self.grad_bias)]
        self.grad_weight = self.grad_bias = None
        return [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]

    def to_float32(self) -> None:
        """Converts everything kept but the gradients."""
        self.x, self.y = self.x.float(), self.y.float()
        self.matrix, self.grad_z = self.matrix.float(), self.grad_z.float()

    def _through_gates(self, grad: Tensor, sum_features: bool) -> tuple[Tensor, Tensor | None]:
        """``grad`` of the shape of y, 0 where a gate is closed, and if wanted its sums (m,), float32 at least."""
        features_last = self.affine.features_last
        if self.relu:
            return through_relu(grad, self.y, features_last, sum_features)
        if not sum_features:
            return grad, None
        features = grad.movedim(-1 if features_last else 1, 0)
        return grad, features.reshape(len(features), -1).sum(1, dtype=loss_dtype(grad))


@dataclass(eq=False)
class Chain:
    """Blocks one after the other.

    ``forward`` comes first. For L alone, ``add_gradients`` does the rest. For L and its SGR loss, ``backward`` gives
    delta, ``add_along`` adds all terms with A, and ``add_gradients`` those with C. To have those of L apart,
    ``add_products`` and ``take_gradients`` come before ``add_along``.
    """

    blocks: list[Block]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.forward(x)
        return x

    def backward(self, grad: Tensor) -> Tensor:
        """delta = dL/dx from ``grad`` = dL/dy of the last block."""
        for block in reversed(self.blocks):
            block.backward(grad)
            grad = block.input_grad()
        return grad

    def add_products(self) -> None:
        """Adds A^T X of every block."""
        for block in self.blocks:
            block.add_product(block.x, free=False)

    def add_along(self, v: Tensor, to_output: bool, with_products: bool = True) -> Tensor | None:
        """Adds A^T U of every block. Returns the change of the output along V, if ``to_output``.

        Args:
            v: V, shape of x, in its dtype or a wider one, float32 for float16; overwritten.
            with_products: add A^T (X + U), for the price of one product.
        """
        if self.blocks[0].x.dtype == torch.float16:  # the range of which V may exceed
            for block in self.blocks:
                block.to_float32()
        tangent = v.to(self.blocks[0].x.dtype)
        for block in self.blocks:
            # Names are reused to free each tensor after its last use: they are as large as the activations.
            change = tangent
            tangent = block.tangent(change) if to_output or block is not self.blocks[-1] else None
            block.add_product(change.add_(block.x) if with_products else change)
        return tangent

    def add_gradients(self, grad: Tensor) -> None:
        """For ``grad`` = dL/dy of the last block, adds A^T X and the sums of A of every block; for ``grad`` = C_L,
        those of C D.
        """
        for block in reversed(self.blocks):
            block.backward(grad)
            if block is not self.blocks[0]:
                grad = block.input_grad()
            block.add_product(block.x)

    def take_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Those of every block."""
        return [pair for block in self.blocks for pair in block.take_gradients()]
