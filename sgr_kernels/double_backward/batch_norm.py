"""Batch norm by the statistics of the batch, whose double backward takes three kernels of an ordinary backward pass.

That of torch is written in some sixty operations, each a sweep over the tensors.

Over the N elements of a channel, with z = (x - mean) r and r = 1 / sqrt(var + eps), its backward pass is a projection:

    gradient of x = weight r P g,  P g = g - mean(g) - z mean(z g);  gradient of weight = sum(z g), of bias = sum(g).

For directions v, v_w and v_b of these three, with A = r P v and G = r P g, what the directions see of the gradients
changes with g, x and weight by

    g:       weight A + v_w z + v_b
    x:       -weight r / N (sum(z g) A + sum(z v) G + sum(v G) z) + v_w G
    weight:  sum(v G)

The backward pass of v gives A and sum(z v), that of g gives G and sum(z g).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..normalized import is_by_batch
from ..torch_internals import batch_norm_of_batch, is_wanted
from .worth import is_large

_backward = torch.ops.aten.native_batch_norm_backward


def batch_norm(
    input: Tensor, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    """F.batch_norm. Left to torch is a small one, one without parameters, or with the statistics of other batches."""
    if not is_large(input) or not is_by_batch(input, weight, bias, training, eps):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, *others: Any) -> Tensor:
        output, *statistics = batch_norm_of_batch(input, weight, bias, *others)
        ctx.save_for_backward(input, weight, *statistics)
        ctx.eps = others[-1]
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        wanted = [is_wanted(ctx, i) for i in range(3)]
        return *_Gradients.apply(grad, *ctx.saved_tensors, ctx.eps, wanted), None, None, None, None


class _Gradients(torch.autograd.Function):
    """Of input, weight and bias; None in the place of one that is not wanted."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, input: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps, wanted):
        ctx.save_for_backward(grad, input, weight, mean, r)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        gradients = _backward(grad, input, weight, None, None, mean, r, True, eps, wanted)
        return tuple(gradient if each else None for gradient, each in zip(gradients, wanted, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None):
        grad, input, weight, mean, r = ctx.saved_tensors
        x = _Normalized(input, mean, r, ctx.eps)
        of_grad, of_input, of_weight, of_z = [], [], None, None
        g, z_g = x.projected(grad)
        if v is not None:
            a, z_v = x.projected(v)
            v_g = x.dots(v, g)
            scale = -weight * r / (input.numel() // len(mean))
            of_grad, of_input, of_z = [(weight, a)], [(scale * z_g, a), (scale * z_v, g)], scale * v_g
            of_weight = v_g.to(weight.dtype)
        if v_weight is not None:
            of_input.append((v_weight, g))
        return x.combined(of_grad, v_weight, v_bias), x.combined(of_input, of_z), of_weight, *[None] * 4


class _Normalized(NamedTuple):
    """Input (B, C, ...), and mean and r of its channels (C,)."""

    input: Tensor
    mean: Tensor
    r: Tensor
    eps: float

    def projected(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """r P y, (B, C, ...), and sum(z y), (C,)."""
        wanted = [True, True, False]
        unit = torch.ones_like(self.mean)  # without one, sums are in half precision where ``y`` is
        return _backward(y, self.input, unit, None, None, self.mean, self.r, True, self.eps, wanted)[:2]

    def dots(self, y: Tensor, z: Tensor) -> Tensor:
        """sum(y z), (C,), as the gradient of a weight: in one kernel, and not rounded in between."""
        zero, unit = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        return _backward(y, z, unit, None, None, zero, unit, True, self.eps, [False, True, False])[1]

    def combined(
        self, terms: list[tuple[Tensor, Tensor]], of_z: Tensor | None, constant: Tensor | None = None
    ) -> Tensor:
        """The sum of numbers times tensors (B, C, ...), of z and of a constant; numbers are one a channel, (C,)."""
        total = torch.zeros_like(self.mean) if constant is None else constant
        if of_z is not None:
            along_x = of_z * self.r
            total, terms = total - along_x * self.mean, [*terms, (along_x, self.input)]
        channel = (-1, *[1] * (self.input.dim() - 2))
        total = total.view(channel).expand_as(self.input)
        for number, tensor in terms:
            total = torch.addcmul(total, number.view(channel), tensor)
        return total.to(self.input.dtype)
