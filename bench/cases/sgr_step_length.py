"""What sgr_step_length is checked and compiled on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sgr_kernels.operators.sgr_step_length import reference, sgr_step_length

from .case import Cases, Inputs, Size, against

# (samples, rows of the output)
SIZES = (
    Size((3, 3)),
    Size((5, 2)),  # samples that do not pair up with rows of the output
    Size((1, 1)),
    Size((1100, 1100)),  # several for every thread of a block, several steps of a Triton program
    Size((700, 1300)),
)
ELEMENTS = 64, 7  # of a row: of x, and of the output


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    samples, outputs = size.shape
    loss = inputs.scalar(0.7, inputs.dtype)
    coef = inputs.normal((4, samples), dtype=torch.float64).abs()
    shapes = zip((samples, outputs), ELEMENTS, strict=True)
    ends = [inputs.normal(shape) for shape in shapes for _ in range(2)]
    if samples > 3:
        ends[0][0] = ends[1][1] = ends[2][-1] = 0  # x, delta and output of a row
    law = 0.5, 0.01, 0.05, 0.75, 10.0
    yield loss, coef, *ends, *law
    yield loss, coef, *ends[:2], None, None, *law


CASES = {sgr_step_length: Cases(SIZES, _arguments, against(reference.sgr_step_length, "inverse", "step"))}
