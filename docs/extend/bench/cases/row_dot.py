"""What row_dot and its derivative are checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from sgr_kernels.operators.common.checks import loss_dtype
from sgr_kernels.operators.row_dot import reference, row_dot, row_dot_backward

from .case import Cases, Inputs, Size, against

# (B, n)
SIZES = (
    Size((3, 7)),
    Size((130, 33)),  # more rows than a thread takes at a time
    Size((2, 5), row_kib=60, late=1, apart=2),  # long rows that begin anywhere
    Size((128, 4096), timed="quick", halves=True),
    Size((64, 200704), timed="full", halves=True),
    Size((2, 3_000_000_000)),  # more than 2^31 elements
)


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    shape = size.of(inputs.dtype)
    yield inputs.normal(shape, late=size.late, apart=size.apart), inputs.normal(shape)


def _backward_arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    for a, b in _arguments(size, inputs):
        yield inputs.normal((len(a),), dtype=loss_dtype(a)), a, b


CASES = {
    row_dot: Cases(SIZES, _arguments, against(reference.row_dot, "dots")),
    row_dot_backward: Cases(SIZES, _backward_arguments, against(reference.row_dot_backward, "grad_a", "grad_b")),
}
