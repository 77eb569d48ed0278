"""What sgr_loss and its backward are checked, compiled and timed on; other operators of rows (B, n) share the sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.common.options import DEFAULT, Options
from sgr_kernels.operators.sgr_loss import sgr_loss, sgr_loss_backward

from .. import reference
from .case import Cases, Compared, Inputs, Size

# (B, n). What a row takes decides how many blocks of a GPU keep it on chip, here of one with 228 KiB a processor.
# n = 4096, 8192 and 16384 are the feature maps of a ResNet-32 on CIFAR, 200704 and 802816 those of a ResNet-50 on
# ImageNet; a single row is one very large sample.
ROWS = (
    Size((3, 7)),
    Size((64, 100)),
    Size((2051, 33)),  # more rows than one block, or one Triton program, adds up the losses of in one go
    Size((3, 0), row_kib=16),  # nothing but aligned packs of 16 bytes
    Size((3, 5), row_kib=16),  # rows that begin anywhere: single elements on both sides of the packs
    Size((3, 5), row_kib=16, late=1, apart=2),  # delta and target never aligned together: no packs
    Size((3, 5), row_kib=60),  # one block, several segments; Triton: the last one that stays in registers
    Size((2, 5), row_kib=120),  # a team of blocks
    Size((2, 5), row_kib=1400),  # a large one
    Size((300, 0), row_kib=60),  # more rows than teams
    Size((1, 5), row_kib=16384),  # does not fit on chip: two sweeps
    Size((8, 64), timed="quick"),
    Size((128, 256), timed="full"),
    Size((128, 1024), timed="full"),
    Size((128, 4096), timed="quick", halves=True),
    Size((128, 8192), timed="full"),
    Size((128, 16384), timed="full"),
    Size((128, 65536), timed="full", once=True),
    Size((8, 4096), timed="full"),
    Size((32, 4096), timed="full"),
    Size((512, 4096), timed="full"),
    Size((2048, 4096), timed="full", once=True),
    Size((1024, 256), timed="full"),
    Size((64, 200704), timed="full", halves=True, once=True),
    Size((1, 50_000_000), timed="full", once=True),
    Size((256, 200704), timed="gpu", halves=True, once=True),
    Size((256, 802816), timed="gpu", once=True),
    Size((5000, 2049)),  # unaligned rows, and so many that their losses are added up separately
    Size((2, 3_000_000_000)),  # more than 2^31 elements
)


def pair(size: Size, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """delta and target (B, n); the last of many rows is dead."""
    shape = size.of(inputs.dtype)
    delta, target = inputs.normal(shape, late=size.late, apart=size.apart), inputs.normal(shape)
    if len(delta) > 3:
        delta[-1] = 0
    return delta, target


def loss_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    """Unit rows, and distances; as they are, and scaled down by a floor that only the device knows."""
    delta, target = pair(size, inputs)
    floor = inputs.scalar(2 * math.sqrt(delta.shape[1]), torch.float64)
    for options in (
        DEFAULT,
        Options(normalize=False, reduction="sum", floor=floor),
        Options(reduction="batchmean", floor=floor),
        Options(normalize=False),
    ):
        yield delta, target, *options.arguments(delta)


def combined(alpha: Tensor, delta: Tensor, beta: Tensor, target: Tensor) -> Tensor:
    """What the coefficients make of float64 rows, where those are."""
    return alpha.to(delta)[:, None] * delta + beta.to(delta)[:, None] * target


def truth(delta: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients for delta and target, by autograd."""
    pair = delta.requires_grad_(), target.requires_grad_()
    loss = reference.sgr_loss(*pair, options)
    return loss.detach(), *torch.autograd.grad(loss, pair)


def _compare_loss(results: tuple[Tensor, ...], delta: Tensor, target: Tensor, *arguments) -> Iterator[Compared]:
    loss, (alpha, beta, alpha_target, length) = results
    expected, v, v_target = truth(delta, target, Options.of(*arguments))
    delta, target = delta.detach(), target.detach()
    yield Compared("loss", loss, expected)
    yield Compared("alpha and beta", combined(alpha, delta, beta, target), v, loss.dtype)
    yield Compared("alpha_target", combined(alpha_target, target, beta, delta), v_target, loss.dtype)
    yield Compared("length", length, v.norm(dim=1), loss.dtype)


def coefficients(rows: int, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """alpha and beta of rows, float64; those of the first of many rows are 0."""
    alpha, beta = (inputs.normal((rows,), dtype=torch.float64) for _ in range(2))
    if rows > 3:
        alpha[0], beta[0] = 0, 0
    return alpha, beta


def _backward_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    delta, target = pair(size, inputs)
    yield inputs.scalar(0.7, loss_dtype(delta)), delta, target, *coefficients(len(delta), inputs)


def _compare_backward(results, grad_loss, delta, target, alpha, beta) -> Iterator[Compared]:
    yield Compared("gradient", results[0], grad_loss * combined(alpha, delta, beta, target))


CASES = {
    sgr_loss: Cases(ROWS, loss_arguments, _compare_loss),
    sgr_loss_backward: Cases(ROWS, _backward_arguments, _compare_backward),
}
