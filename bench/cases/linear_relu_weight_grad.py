"""What linear_relu_weight_grad is checked and compiled on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sgr_kernels.operators.linear_relu_weight_grad import linear_relu_weight_grad

from .case import Cases, Compared, Inputs, Size
from .products import SIZES, in_every_precision
from .sgr_loss import coefficients, combined


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    batch, m, n = size.shape
    for _ in in_every_precision(inputs):
        grad, output = inputs.normal((batch, m), apart=size.apart), inputs.normal((batch, m))
        x, delta, target = (inputs.normal((batch, n)) for _ in range(3))
        for need_bias in (True, False):
            yield grad, output, x, delta, target, *coefficients(batch, inputs), 0.7, need_bias


def _compare(results, grad, output, x, delta, target, alpha, beta, factor, need_bias) -> Iterator[Compared]:
    a = torch.where(output <= 0, 0.0, grad)
    weight = a.T @ (x + factor * combined(alpha, delta, beta, target))
    yield Compared("weight", results[0], weight, is_product=True)
    yield Compared("bias", results[1], a.sum(0) if need_bias else a.new_empty(0))


CASES = {linear_relu_weight_grad: Cases(SIZES, _arguments, _compare)}
