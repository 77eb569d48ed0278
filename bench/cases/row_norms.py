"""What row_norms is checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from sgr_kernels.operators.row_norms import reference, row_norms

from .case import Cases, Inputs, Size, against
from .sgr_loss import ROWS


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    yield (inputs.normal(size.of(inputs.dtype), late=size.late, apart=size.apart),)


CASES = {row_norms: Cases(ROWS, _arguments, against(reference.row_norms, "norms"))}
