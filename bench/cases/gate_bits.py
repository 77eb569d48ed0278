"""What the operators of recorded gates are checked, compiled and timed on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sgr_kernels.operators.gate_bits import record_relu, record_relu_, replay_relu, replay_relu_

from .. import reference
from .case import Cases, Inputs, Size, against

SLOPES = (0.0, 0.01)
# Activations as memory; the timed ones are (B, C, H, W) of a ResNet-32 on CIFAR and a ResNet-50 on ImageNet.
SIZES = (
    Size((11,)),
    Size((20_011,)),  # packs, in several blocks
    Size((1003,), late=1),  # one by one
    Size((128, 64, 8, 8), timed="quick"),
    Size((128, 32, 16, 16), timed="full"),
    Size((128, 16, 32, 32), timed="full"),
    Size((32, 64, 112, 112), timed="full", halves=True),
    Size((256, 64, 112, 112), timed="gpu", halves=True),
    Size((100_003,)),
    Size((1_000_000,)),
    Size((3_000_000_000,)),  # more than 2^31 elements
)


def _record_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    for slope in SLOPES:
        yield inputs.normal((math.prod(size.shape),), late=size.late), slope


def _replay_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    """Gates that are not those of x."""
    for slope in SLOPES:
        x, others = (inputs.normal((math.prod(size.shape),), late=size.late) for _ in range(2))
        yield x, reference.pack_bits(others > 0), slope


def _record(x: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    is_open = x > 0
    return torch.where(is_open, x, slope * x), reference.pack_bits(is_open).double()


def _replay(x: Tensor, bits: Tensor, slope: float) -> Tensor:
    return torch.where(reference.unpack_bits(bits, x.shape), x, slope * x)


CASES = {
    record_relu: Cases(SIZES, _record_arguments, against(_record, "y", "bits")),
    record_relu_: Cases(SIZES, _record_arguments, against(_record, "y", "bits"), in_place=True),
    replay_relu: Cases(SIZES, _replay_arguments, against(_replay, "y")),
    replay_relu_: Cases(SIZES, _replay_arguments, against(_replay, "y"), in_place=True),
}
