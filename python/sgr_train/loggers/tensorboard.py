"""TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import needed
from . import register, scalars

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..loader import Data
    from ..state import Training


@register("tensorboard")
class TensorBoard:
    """Curves for TensorBoard, in the folder tensorboard of the run. Needs the package tensorboard."""

    def __init__(self) -> None:
        with needed("--log tensorboard", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._make = SummaryWriter

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        """What an interrupted run has logged of epochs that it trains again is not shown any more."""
        self._epochs = max(len(run.history), 1)
        self._writer = self._make(str(config.out / "tensorboard"), purge_step=self._epochs)
        for row in run.history[-1:]:
            self.epoch(row)

    def epoch(self, row: dict[str, Any]) -> None:
        self._epochs = row["epoch"]
        self._write(row)

    def end(self, summary: dict[str, Any] | None) -> None:
        if summary:
            self._write({name: value for name, value in summary.items() if name.startswith("test_")})
        self._writer.close()

    def _write(self, values: dict[str, Any]) -> None:
        for name, value in scalars(values).items():
            self._writer.add_scalar(name, value, self._epochs)
        self._writer.flush()
