"""A logger: the local losses in a file for spreadsheets."""

from __future__ import annotations

from sgr_train.loggers import register


@register("csv")
class Csv:
    """The losses of all modules, in losses.csv of the run.

    Args:
        separator: stands between two.
    """

    def __init__(self, *, separator: str = ",") -> None:
        self.separator = separator

    def begin(self, run, config, data):
        self.lines = [row["loss"] for row in run.history]
        self.path = config.out / "losses.csv"

    def epoch(self, row):
        self.lines.append(row["loss"])
        self.path.write_text("".join(self.separator.join(map(str, losses)) + "\n" for losses in self.lines))
