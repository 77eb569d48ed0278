"""Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import needed
from . import register, scalars

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..loader import Data
    from ..state import Training


@register("wandb")
class WeightsAndBiases:
    """A run of Weights & Biases. Needs the package wandb; the rest is up to its own environment (WANDB_MODE, ...).

    Args:
        project: the project that the run belongs to.
    """

    def __init__(self, *, project: str = "sgr-train") -> None:
        with needed("--log wandb", "wandb"):
            import wandb
        self._wandb, self.project = wandb, project

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        """A run that is resumed goes on there too: its id is that of its files."""
        from ..config import to_json  # which imports all entries

        place = {"project": self.project, "dir": str(config.out), "name": config.out.resolve().name}
        self._run = self._wandb.init(id=run.run_id, resume="allow", config=to_json(config), **place)
        for row in run.history[-1:]:
            self.epoch(row)

    def epoch(self, row: dict[str, Any]) -> None:
        self._run.log(scalars(row), step=row["epoch"])

    def end(self, summary: dict[str, Any] | None) -> None:
        self._run.summary.update(scalars(summary or {}))
        self._run.finish(exit_code=int(summary is None))
