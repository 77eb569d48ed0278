"""Pictures of runs, as PNG."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

from .config import RunConfig
from .report import COSTS, Summaries, mean, std, values_of

Styles = dict[str, tuple[str, str]]  # colour and marker of each method

# Okabe and Ito: safe for colour-blind readers. The first three methods are in most pictures, and keep theirs.
STYLES = {"bp": ("#000000", "s"), "layerwise": ("#D55E00", "^"), "sgr": ("#0072B2", "o")}
OTHER_STYLES = [("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "X"), ("#F0E442", "*")]
FEW = 30  # points of a line, each of which has a marker
MOST_NAMED = 6  # lines in a legend
COMPARED = ["accuracy", "sgr", *(cost.entry for cost in COSTS)]  # the upper row of a comparison, and the lower one
BY_EPOCH = ["accuracy by epoch", "accuracy by epoch", "sgr by epoch", "sgr by epoch"]
MOST_LEVEL = 4  # names of methods beside each other below an axis
ABOVE = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": "small"}  # a number
FRAME = {"framealpha": 0.8, "edgecolor": "none"}  # of a legend, which can be read before lines


def of_run(history: list[dict[str, Any]], config: RunConfig, reduction: str) -> bytes:
    """Loss, accuracy and, where modules have neighbours, SGR loss by epoch."""
    epochs = [row["epoch"] for row in history]
    panels = 3 if history[0]["sgr"] else 2
    figure = _figure(4.6 * panels, 3.8)
    axes = figure.subplots(1, panels)
    for axis in axes:
        _against_epochs(axis)
    _per_module(axes[0], epochs, [row["loss"] for row in history], first=1)
    axes[0].set(ylabel="local training loss (nats)", yscale="log")
    colour, marker = _styles([config.method])[config.method]
    for name, line, filled in (("train", "--", "none"), ("val", "-", "full")):
        measured = {row["epoch"]: 100 * values[-1] for row in history if (values := row[f"{name}_accuracy"])}
        style = {"color": colour, "linestyle": line, "fillstyle": filled, **_marked(measured, marker)}
        axes[1].plot(list(measured), list(measured.values()), label=name, **style)
    axes[1].set(ylabel="accuracy of the last head (%)")
    axes[1].legend(**FRAME)
    if history[0]["sgr"]:
        _per_module(axes[2], epochs, [row["sgr"] for row in history], first=2)
        axes[2].set(ylabel=f"SGR loss, measured ({reduction})", ylim=_from_zero(axes[2]))
    return _png(figure, f"{config.method}, {config.model}, {Path(config.data).name}, seed {config.seed}")


def of_comparison(
    summaries: Summaries, histories: dict[str, list[list[dict[str, Any]]]], reduction: str, title: str
) -> bytes:
    """What the methods came to, side by side: a bar is the mean, its line the standard deviation, a point one seed.

    Below them validation accuracy and SGR loss by epoch: mean over seeds, the band from the lowest to the highest.
    After an epoch that not all runs have come to, those that have are shown.
    """
    figure = _figure(max(2.9, 0.42 * len(summaries)) * len(COMPARED), 7.0)
    axes = figure.subplot_mosaic([COMPARED, BY_EPOCH])
    styles = _styles(list(summaries))
    accuracies = {method: [100 * run["test_accuracy"] for run in runs] for method, runs in summaries.items()}
    _side_by_side(axes["accuracy"], accuracies, styles, from_zero=False)
    axes["accuracy"].set(ylabel="test accuracy (%)")
    losses = {method: [run["sgr"] for run in runs if run["sgr"] is not None] for method, runs in summaries.items()}
    _side_by_side(axes["sgr"], losses, styles)
    axes["sgr"].set(ylabel=f"SGR loss ({reduction})")
    for cost in COSTS:
        title_of_cost, values = values_of(summaries, cost)
        _side_by_side(axes[cost.entry], values, styles)
        axes[cost.entry].set(ylabel=title_of_cost)
    _by_epoch(axes["accuracy by epoch"], axes["sgr by epoch"], histories, styles, reduction)
    return _png(figure, f"{title}\nmeans over seeds; lines: standard deviation, marks: single seeds, bands: all seeds")


def _side_by_side(axis: Any, values: dict[str, list[float]], styles: Styles, *, from_zero: bool = True) -> None:
    """The methods in a row, the mean written above each. Accuracies are close to each other: no bars from 0."""
    _clean(axis)
    for place, (method, found) in enumerate(values.items()):
        if not found:
            axis.annotate("-", (place, 0), **ABOVE)
            continue
        (colour, marker), centre, deviation = styles[method], mean(found), std(found) or 0.0
        if from_zero:
            axis.bar(place, centre, 0.7, color=colour, alpha=0.3)
        axis.plot([place] * len(found), found, color=colour, marker=marker, markersize=4, alpha=0.5, linestyle="none")
        axis.errorbar(place, centre, deviation, color=colour, marker="_", markersize=20, capsize=6)
        top = place, max(*found, centre + deviation)
        axis.annotate(f"{centre:.2f}", top, **ABOVE)
    axis.set_xticks(range(len(values)), list(values), rotation=0 if len(values) <= MOST_LEVEL else 60)
    axis.set_xlim(-0.6, len(values) - 0.4)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.15)
    if from_zero:
        axis.set_ylim(_from_zero(axis, room=0.15))  # for the numbers


def _by_epoch(
    left: Any, right: Any, histories: dict[str, list[list[dict[str, Any]]]], styles: Styles, reduction: str
) -> None:
    for axis in left, right:
        _against_epochs(axis)
    for method, runs in histories.items():
        colour, marker = styles[method]
        style = {"color": colour, "marker": marker, "markersize": 4, "label": method}
        rows = [row for run in runs for row in run]
        _band(left, [(row["epoch"], 100 * row["val_accuracy"][-1]) for row in rows if row["val_accuracy"]], style)
        if rows[0]["sgr"]:
            _band(right, [(row["epoch"], mean(row["sgr"])) for row in rows], style)
    left.set(ylabel="validation accuracy (%)")
    left.legend(**FRAME)
    right.set(ylabel=f"SGR loss ({reduction})", ylim=_from_zero(right))


def _styles(methods: Sequence[str]) -> Styles:
    """Colour and marker of each method."""
    others = itertools.cycle(OTHER_STYLES)
    return {method: STYLES.get(method) or next(others) for method in methods}


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _clean(axis: Any) -> None:
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _against_epochs(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    _clean(axis)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _per_module(axis: Any, epochs: list[int], values: list[list[float]], first: int) -> None:
    """One line a module, dark to light: named in a legend, or where they are many, by a scale beside the lines."""
    from matplotlib import cm, colormaps, colors, ticker

    count = len(values[0])
    colours = [colormaps["viridis"](0.9 * k / max(count - 1, 1)) for k in range(count)]
    for k, colour in enumerate(colours):
        label = f"module {k + first}"
        axis.plot(epochs, [row[k] for row in values], color=colour, label=label, **_marked(epochs, "o"))
    if count <= MOST_NAMED:
        axis.legend(fontsize="small", **FRAME)
        return
    norm = colors.Normalize(first - 0.5, first + count - 0.5)
    scale = cm.ScalarMappable(norm, colors.ListedColormap(colours))
    axis.figure.colorbar(scale, ax=axis, label="module", ticks=ticker.MaxNLocator(integer=True))


def _from_zero(axis: Any, room: float = 0.05) -> tuple[float, float]:
    """Limits with some room above the largest value."""
    highest = axis.dataLim.y1
    return 0, (1 + room) * highest if highest > 0 else 1


def _marked(points: Sized, marker: str) -> dict[str, Any]:
    """Markers where there are few points: of one alone there is no line."""
    return {"marker": marker, "markersize": 4} if len(points) <= FEW else {}


def _band(axis: Any, points: list[tuple[int, float]], style: dict[str, Any]) -> None:
    """A line through the means of the values at each epoch, in a band that holds them all."""
    by_epoch: dict[int, list[float]] = {}
    for epoch, value in sorted(points):
        by_epoch.setdefault(epoch, []).append(value)
    axis.plot(list(by_epoch), [mean(values) for values in by_epoch.values()], **style)
    low, high = ([limit(values) for values in by_epoch.values()] for limit in (min, max))
    axis.fill_between(list(by_epoch), low, high, color=style["color"], alpha=0.15, linewidth=0)


def _png(figure: Any, title: str) -> bytes:
    figure.suptitle(title, parse_math=False)  # it holds the path of the data, in which $ is no formula
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
