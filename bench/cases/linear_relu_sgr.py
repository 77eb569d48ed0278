"""What linear_relu_delta and linear_relu_weight_grad are checked and compiled on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from sgr_kernels.operators.common.options import Options
from sgr_kernels.operators.linear_relu_sgr import linear_relu_delta, linear_relu_weight_grad

from .case import Cases, Compared, Inputs, Size
from .sgr_loss import coefficients, combined, truth

# (B, m, n)
SIZES = (
    Size((21, 41, 57)),  # masks everywhere, and no wide loads
    Size((64, 64, 96)),  # neither masks nor narrow loads
    Size((1025, 32, 1920)),  # large tiles for delta
    Size((21, 1040, 1920)),  # for the gradient of the weight
    Size((2, 40, 48), apart=2**23),  # offsets in a tile that may exceed 32 bits
    Size((250, 333, 301)),
    Size((200, 1008, 1008)),
    Size((8192, 4096, 4096)),
    Size((4096, 4096, 4096), apart=2**25),
)


def _in_every_precision(inputs: Inputs) -> Iterator[None]:
    """Once for each precision of products, which is in force meanwhile; not at all for float64, which is refused."""
    if inputs.dtype == torch.float64:
        return
    yield
    if inputs.dtype == torch.float32:
        with _tf32():
            yield


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def _delta_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    batch, m, n = size.shape
    for _ in _in_every_precision(inputs):
        grad, output = inputs.normal((batch, m), apart=size.apart), inputs.normal((batch, m))
        weight, target = inputs.normal((m, n)), inputs.normal((batch, n))
        for normalize in (True, False):
            yield grad, output, weight, target, *Options(normalize, "batchmean").arguments(grad)


def _compare_delta(results, grad, output, weight, target, *arguments) -> Iterator[Compared]:
    delta, loss, (alpha, beta, _) = results
    yield Compared("delta", delta, torch.where(output <= 0, 0.0, grad) @ weight, is_product=True)
    rounded = delta.detach().to(target)  # the rest is that of delta as it is
    expected, v, _ = truth(rounded, target, Options.of(*arguments))
    yield Compared("loss", loss, expected)
    yield Compared("alpha and beta", combined(alpha, rounded.detach(), beta, target.detach()), v, loss.dtype)


def _weight_grad_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    batch, m, n = size.shape
    for _ in _in_every_precision(inputs):
        grad, output = inputs.normal((batch, m), apart=size.apart), inputs.normal((batch, m))
        x, delta, target = (inputs.normal((batch, n)) for _ in range(3))
        for need_bias in (True, False):
            yield grad, output, x, delta, target, *coefficients(batch, inputs), 0.7, need_bias


def _compare_weight_grad(results, grad, output, x, delta, target, alpha, beta, factor, need_bias) -> Iterator[Compared]:
    a = torch.where(output <= 0, 0.0, grad)
    weight = a.T @ (x + factor * combined(alpha, delta, beta, target))
    yield Compared("weight", results[0], weight, is_product=True)
    yield Compared("bias", results[1], a.sum(0) if need_bias else a.new_empty(0))


CASES = {
    linear_relu_delta: Cases(SIZES, _delta_arguments, _compare_delta),
    linear_relu_weight_grad: Cases(SIZES, _weight_grad_arguments, _compare_weight_grad),
}
