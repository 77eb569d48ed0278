"""What cross_entropy and its Hessian are checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.cross_entropy import cross_entropy, cross_entropy_hvp

from .. import reference
from .case import Cases, Inputs, Size, against

# (B, K)
SIZES = (
    Size((5, 10)),  # several rows a block
    Size((5, 10), apart=3),
    Size((3, 300)),  # a block a row
    Size((2, 5003)),  # several steps of a Triton program
    Size((128, 100), timed="quick"),
    Size((128, 10), timed="full"),
    Size((1024, 10), timed="full"),
    Size((256, 1000), timed="full", halves=True),
    Size((4096, 1000), timed="full"),
    Size((8192, 1000), timed="gpu", halves=True),
    Size((8192, 32768)),  # a language model
)


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    batch, classes = size.shape
    yield inputs.normal(size.shape, apart=size.apart), inputs.integers(classes, batch)


def _hvp_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    for logits, labels in _arguments(size, inputs):
        yield logits, labels, inputs.normal(size.shape, dtype=loss_dtype(logits))


CASES = {
    cross_entropy: Cases(SIZES, _arguments, against(reference.cross_entropy_gradient, "loss", "gradient")),
    cross_entropy_hvp: Cases(SIZES, _hvp_arguments, against(reference.cross_entropy_hvp, "hvp")),
}
