"""What people see: progress, tables, plots."""

from __future__ import annotations

import io
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from .config import RunConfig
from .errors import say

# Okabe and Ito: safe for colour-blind readers. The first three methods are in most pictures, and keep theirs.
STYLES = {"bp": ("#000000", "s"), "layerwise": ("#D55E00", "^"), "sgr": ("#0072B2", "o")}
OTHER_STYLES = [("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "X"), ("#F0E442", "*")]
MIB = 2**20


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return sum(values) / len(values) if values else None


def std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None below two values."""
    if len(values) < 2:
        return None
    centre = sum(values) / len(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))


class Progress:
    """A bar in images, with rate and time left; where standard error is no terminal, a line an epoch if ``verbose``."""

    def __init__(self, label: str, done: int, images: int, epochs: int, verbose: bool) -> None:
        """``done`` of all ``images`` lie behind us."""
        self.epochs = epochs
        self.verbose = verbose
        self.shown: dict[str, str] = {}
        self.bar = tqdm(
            total=images,
            initial=done,
            desc=label,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            leave=verbose,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def batch(self, images: int, loss: Tensor) -> None:
        if self.bar.update(images):  # True when the bar was redrawn: the device need not be awaited for every batch
            self.shown["loss"] = f"{loss.item():.3f}"
            self.bar.set_postfix(self.shown, refresh=False)

    def epoch(self, row: dict[str, Any]) -> None:
        sgr = mean(row["sgr"])
        self.shown = {
            "loss": f"{row['loss'][-1]:.3f}",
            "val": f"{row['val_accuracy'][-1]:.1%}",
            "SGR": "-" if sgr is None else f"{sgr:.3f}",
            "waited for data": f"{row['waited']:.0%}",
        }
        if not self.bar.disable:
            self.bar.set_postfix(self.shown)
        elif self.verbose:
            values = "  ".join(f"{name} {value}" for name, value in self.shown.items())
            say(f"epoch {row['epoch']}/{self.epochs}  {values}  {row['images_per_second']:.0f} img/s")


# Tables


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, first row the header, first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean +- standard deviation, the latter where there is one."""
    deviation = std(values)
    centre = f"{scale * mean(values):.{digits}f}" if values else "-"
    return centre if deviation is None else f"{centre} +- {scale * deviation:.{digits}f}"


def mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / MIB:.0f}"


def comparison_table(summaries: dict[str, list[dict[str, Any]]]) -> str:
    """One row a method; mean +- standard deviation over seeds."""
    kind = next(iter(summaries.values()))[0]["peak_memory_kind"]
    rows = [["method", "test acc. %", "val acc. %", "SGR loss", "s/epoch", f"{kind}, MiB"]]
    for method, runs in summaries.items():
        column = {name: [run[name] for run in runs if run[name] is not None] for name in runs[0]}
        rows.append(
            [
                method,
                spread(column["test_accuracy"], 100),
                spread(column["val_accuracy"], 100),
                spread(column["sgr"], digits=4),
                spread(column["seconds_per_epoch"], digits=3),
                mebibytes(max(column["peak_memory_bytes"], default=None)),
            ]
        )
    return table(rows)


def choice_table(accuracies: dict[float, list[float]], losses: dict[float, list[float]]) -> str:
    """One row a weight; mean +- standard deviation over seeds."""
    rows = [["lambda", "val acc. %", "SGR loss"]]
    rows += [[f"{w:g}", spread(accuracies[w], 100), spread(losses[w], digits=4)] for w in accuracies]
    return table(rows)


def paired(summaries: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """SGR against layerwise, seed by seed: accuracy difference, its standard error, and seeds with a lower SGR loss.

    Seeds of which one of the two has no run are left out.
    """
    with_sgr, without = ({run["seed"]: run for run in summaries.get(name, [])} for name in ("sgr", "layerwise"))
    pairs = [(run, without[seed]) for seed, run in with_sgr.items() if seed in without]
    if not pairs:
        return None
    differences = [one["test_accuracy"] - other["test_accuracy"] for one, other in pairs]
    deviation = std(differences)
    return {
        "seeds": len(pairs),
        "accuracy_difference": mean(differences),
        "standard_error": None if deviation is None else deviation / math.sqrt(len(pairs)),
        "sgr_lower_on": sum(one["sgr"] < other["sgr"] for one, other in pairs),
    }


def paired_text(result: dict[str, Any]) -> str:
    error = result["standard_error"]
    error_text = "one seed, no standard error" if error is None else f"paired standard error {100 * error:.2f}"
    return (
        f"SGR - layerwise, test accuracy: {100 * result['accuracy_difference']:+.2f} points ({error_text})\n"
        f"SGR loss lower with SGR on {result['sgr_lower_on']} of {result['seeds']} seeds"
    )


# Plots


def plot_run(history: list[dict[str, Any]], config: RunConfig, reduction: str) -> bytes:
    """Loss, accuracy and, where modules have neighbours, SGR loss by epoch; as PNG."""
    epochs = [row["epoch"] for row in history]
    figure, axes = _figure(3 if history[0]["sgr"] else 2)
    _per_module(axes[0], epochs, [row["loss"] for row in history], first=1)
    axes[0].set(ylabel="local training loss (nats)", yscale="log")
    for name, style in (("train_accuracy", "--"), ("val_accuracy", "-")):
        values = [100 * row[name][-1] for row in history]
        axes[1].plot(epochs, values, style, color=_styles([config.method])[config.method][0], label=name.split("_")[0])
    axes[1].set(ylabel="accuracy of the last head (%)")
    axes[1].legend(frameon=False)
    if history[0]["sgr"]:
        _per_module(axes[2], epochs, [row["sgr"] for row in history], first=2)
        axes[2].set(ylabel=f"SGR loss, measured ({reduction})", ylim=(0, None))
    return _png(figure, f"{config.method}, {config.model}, {Path(config.data).name}, seed {config.seed}")


def plot_comparison(histories: dict[str, list[list[dict[str, Any]]]], reduction: str, title: str) -> bytes:
    """Validation accuracy and SGR loss by epoch, as PNG: mean over seeds, the band from the lowest to the highest."""
    figure, (left, right) = _figure(2)
    styles = _styles(list(histories))
    for method, runs in histories.items():
        colour, marker = styles[method]
        style = {"color": colour, "marker": marker, "markersize": 4, "label": method}
        epochs = [row["epoch"] for row in runs[0]]
        accuracies = [[100 * row["val_accuracy"][-1] for row in run] for run in runs]
        _band(left, epochs, accuracies, style)
        if runs[0][0]["sgr"]:
            _band(right, epochs, [[mean(row["sgr"]) for row in run] for run in runs], style)
    left.set(ylabel="validation accuracy (%)")
    left.legend(frameon=False)
    right.set(ylabel=f"SGR loss, mean over modules ({reduction})", ylim=(0, None))
    return _png(figure, title)


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method."""
    others = itertools.cycle(OTHER_STYLES)
    return {method: STYLES.get(method) or next(others) for method in methods}


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6 * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _per_module(axis: Any, epochs: list[int], values: list[list[float]], first: int) -> None:
    """One line a module, dark to light; the legend names at most six of them."""
    from matplotlib import colormaps

    count = len(values[0])
    named = {round(i * (count - 1) / 5) for i in range(6)}
    for k in range(count):
        colour = colormaps["viridis"](0.9 * k / max(count - 1, 1))
        label = f"module {k + first}" if k in named else None
        axis.plot(epochs, [row[k] for row in values], color=colour, label=label)
    axis.legend(frameon=False, fontsize="small")


def _band(axis: Any, epochs: list[int], runs: list[list[float]], style: dict[str, Any]) -> None:
    by_epoch = list(zip(*runs, strict=True))
    axis.plot(epochs, [mean(values) for values in by_epoch], **style)
    low, high = [min(values) for values in by_epoch], [max(values) for values in by_epoch]
    axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _png(figure: Any, title: str) -> bytes:
    figure.suptitle(title, parse_math=False)  # it holds the path of the data, in which $ is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
