"""What is seen of a run while it trains."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import Any, TextIO

import torch
from torch import Tensor
from tqdm import tqdm

from .config import RunConfig, Settings
from .errors import say
from .loader import Data
from .report import mean
from .settings import words_of
from .state import Training

SECONDS, SHARE = 30, 0.1  # at least between two lines: so long, and so much of an epoch


class Progress:
    """A bar in images, with rate and time left; where standard error is no terminal with a width, a line now and then.

    Args:
        label: of the run.
        verbose: say what it is before it begins, and have a line an epoch at least.
    """

    def __init__(self, label: str, verbose: bool) -> None:
        self.label, self.verbose = label, verbose
        self.shown: dict[str, str] = {}

    def begin(self, run: Training, config: RunConfig, data: Data) -> None:
        if self.verbose:
            say(heading(config, data, run))
        self.epochs, self.per_epoch = run.epochs, data.images_per_epoch(config.batch_size * config.accumulate)
        self.done = self.per_epoch * len(run.history) + (run.epoch.images if run.epoch else 0)  # images
        self._told()
        self.bar = tqdm(
            total=self.per_epoch * run.epochs,
            initial=self.done,
            desc=self.label,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not _has_width(sys.stderr),
            leave=self.verbose,
        )

    def batch(self, images: int, loss: Tensor) -> None:
        self.done += images
        if self.bar.update(images):  # True when the bar was redrawn: the device need not be awaited for every batch
            self.shown["loss"] = f"{loss.item():.3f}"
            self.bar.set_postfix(self.shown, refresh=False)
        elif self.bar.disable and self.done % self.per_epoch and self._is_due():
            self.shown["loss"] = f"{loss.item():.3f}"
            rate = (self.done - self.told) / (time.monotonic() - self.told_at)
            epoch, images = divmod(self.done, self.per_epoch)
            self._say(f"{images / self.per_epoch:.0%} of epoch {epoch + 1}", rate)

    def epoch(self, row: dict[str, Any]) -> None:
        sgr = mean(row["sgr"])
        self.shown = {
            "loss": f"{row['loss'][-1]:.3f}",
            "val": f"{row['val_accuracy'][-1]:.1%}" if row["val_accuracy"] else "-",
            "SGR": "-" if sgr is None else f"{sgr:.3f}",
            "waited for data": f"{row['waited']:.0%}",
        }
        if not self.bar.disable:
            self.bar.set_postfix(self.shown)
        elif self.verbose or self._is_due():
            self._say(f"epoch {row['epoch']}", row["images_per_second"])

    def end(self, _: dict[str, Any] | None) -> None:
        self.bar.close()

    def _is_due(self) -> bool:
        """Whether the last line is long ago."""
        late = time.monotonic() - self.told_at >= SECONDS
        return late and self.done - self.told >= SHARE * self.per_epoch

    def _say(self, what: str, rate: float) -> None:
        values = "  ".join(f"{name} {value}" for name, value in self.shown.items())
        label = "" if self.verbose else f"{self.label}: "
        say(f"{label}{what}/{self.epochs}  {values}  {rate:.0f} img/s")
        self._told()

    def _told(self) -> None:
        self.told, self.told_at = self.done, time.monotonic()


def _has_width(file: TextIO) -> bool:
    """Whether it is a terminal that knows its width, without which a bar would be empty."""
    try:
        return file.isatty() and os.get_terminal_size(file.fileno()).columns > 0
    except OSError:
        return False


def heading(config: Settings, data: Data, run: Training | None = None) -> str:
    """Two lines: where it runs, on what, and the settings that are not those of their own accord."""
    device = data.mean.device
    threads = torch.get_num_threads()
    cpu = f"CPU ({threads} thread{'s' * (threads > 1)})"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    images = f"{len(data.train)} / {len(data.val)} / {len(data.test)} images to train / validate / test"
    sizes = [images, f"{data.num_classes} classes"]
    if run is not None:
        modules, parameters = len(run.network), sum(p.numel() for p in run.network.parameters())
        sizes += [f"{modules} module{'s' * (modules > 1)}", f"{parameters:,} parameters"]
        if run.history or run.epoch:
            sizes.append(f"{len(run.history)} of {run.epochs} epochs are done")
    words = " ".join(map(shlex.quote, words_of(config)))
    return f"{config.out} on {name}: {', '.join(sizes)}\nsettings: {words or 'all as they are by default'}"
