"""What row_norms is checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from ..common.cases import Cases, Inputs, Size, against
from ..sgr_loss.cases import ROWS
from . import reference


def _arguments(size: Size, inputs: Inputs) -> Iterator[tuple]:
    yield (inputs.normal(size.of(inputs.dtype), late=size.late, apart=size.apart),)


NORMS = Cases(ROWS, _arguments, against(reference.row_norms, "norms"))
