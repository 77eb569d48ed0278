"""linear_relu_delta: the first product of Eq. 35, delta = A W, and its SGR loss, formed by the product's epilogue.

Only in Triton (:mod:`.triton`): other backends multiply with the library and fuse what lies between the products.
"""

import torch

from ..common import options as opt
from ..common.dtypes import loss_dtype
from ..common.operator import Operator


def _triton(*args):
    from .triton import linear_relu_delta

    return linear_relu_delta(*args)


def _fake(grad, output, weight, target, *options):
    batch = grad.shape[0]
    torch._check(weight.dim() == 2, lambda: f"linear_relu_delta expects weight (m, n), got {tuple(weight.shape)}")
    return (
        grad.new_empty((batch, weight.shape[1])),
        grad.new_empty((), dtype=loss_dtype(grad)),
        grad.new_empty((3, batch), dtype=torch.float64),
    )


# grad, output (B, m), weight (m, n), target (B, n) -> delta (B, n) = A weight with A = grad * [output > 0]; loss and
# coef of sgr_loss
linear_relu_delta = Operator(
    f"linear_relu_delta(Tensor grad, Tensor output, Tensor weight, Tensor target, {opt.SCHEMA})"
    " -> (Tensor delta, Tensor loss, Tensor coef)",
    fake=_fake,
    triton=_triton,
    compiled=False,
)
