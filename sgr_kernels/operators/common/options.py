"""The options of an SGR loss (normalize, reduction, floor, eps) as one value; operators take them as flat arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_number, check_number_or_tensor

REDUCTIONS = ("mean", "batchmean", "sum")  # operators take the index

# In the schema of an operator; the call is operator(..., *options.arguments(delta)).
SCHEMA = "bool normalize, int reduction, float floor, Tensor? floor_tensor, float eps"


class Options(NamedTuple):
    """As :func:`sgr_kernels.sgr_loss` documents them.

    Attributes:
        normalize: compare directions.
        reduction: "mean", "batchmean" or "sum".
        floor: norm below which rows fade out, a number or a 0-d tensor.
        eps: norm at or below which a row is dead.
    """

    normalize: bool = True
    reduction: str = "mean"
    floor: float | Tensor = 0.0
    eps: float = 1e-12

    def check(self) -> None:
        """Raises TypeError or ValueError where an option is out of range."""
        check_reduction(self.reduction)
        check_number("eps", self.eps)
        check_number_or_tensor("floor", self.floor)

    def arguments(self, delta: Tensor) -> tuple[bool, int, float, Tensor | None, float]:
        """As operators take them: a floor that is a tensor goes to the device of ``delta``, without looking at it."""
        index = REDUCTIONS.index(self.reduction)
        if not isinstance(self.floor, Tensor):
            return self.normalize, index, float(self.floor), None, self.eps
        floor = self.floor.detach().to(device=delta.device, dtype=torch.float64)
        return self.normalize, index, 0.0, floor, self.eps

    @classmethod
    def of(cls, normalize: bool, reduction: int, floor: float, floor_tensor: Tensor | None, eps: float) -> Options:
        """From the arguments of an operator."""
        return cls(normalize, REDUCTIONS[reduction], floor if floor_tensor is None else floor_tensor, eps)


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


DEFAULT = Options()
