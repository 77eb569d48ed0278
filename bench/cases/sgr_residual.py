"""What sgr_residual is checked, compiled and timed on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sgr_kernels.operators.common.options import Options
from sgr_kernels.operators.sgr_residual import sgr_residual

from .case import Cases, Compared
from .sgr_loss import ROWS, loss_arguments, truth


def _compare(results: tuple[Tensor, ...], delta: Tensor, target: Tensor, *arguments) -> Iterator[Compared]:
    loss, v, _ = truth(delta, target, Options.of(*arguments))
    yield Compared("loss", results[0], loss)
    yield Compared("v", results[1], v)


CASES = {sgr_residual: Cases(ROWS, loss_arguments, _compare)}
