"""What linear_relu_delta is checked and compiled on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sgr_kernels.operators.common.options import Options
from sgr_kernels.operators.linear_relu_delta import linear_relu_delta

from .case import Cases, Compared, Inputs, Size
from .products import SIZES, in_every_precision
from .sgr_loss import combined, truth


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    batch, m, n = size.shape
    for _ in in_every_precision(inputs):
        grad, output = inputs.normal((batch, m), apart=size.apart), inputs.normal((batch, m))
        weight, target = inputs.normal((m, n)), inputs.normal((batch, n))
        for normalize in (True, False):
            yield grad, output, weight, target, *Options(normalize, "batchmean").arguments(grad)


def _compare(results, grad, output, weight, target, *arguments) -> Iterator[Compared]:
    delta, loss, (alpha, beta, _) = results
    yield Compared("delta", delta, torch.where(output <= 0, 0.0, grad) @ weight, is_product=True)
    rounded = delta.detach().cpu().double()  # the rest is that of delta as it is
    expected, v, _ = truth(rounded, target, Options.of(*arguments))
    yield Compared("loss", loss, expected)
    yield Compared("alpha and beta", combined(alpha, rounded.detach(), beta, target.detach()), v, loss.dtype)


CASES = {linear_relu_delta: Cases(SIZES, _arguments, _compare)}
