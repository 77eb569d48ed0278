"""Pictures of the page: curves over epochs, means and bands over seeds; accuracy by depth."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sgr_train.report import mean

from .. import style
from .studies import Study
from .tables import Result, Results, best_by_depth

LOOKS = {  # colour and marker; the others get what is left
    "bp": (style.BLACK, "s"),
    "layerwise": (style.VERMILLION, "^"),
    "reforward": (style.ORANGE, "P"),
    "sgr": (style.BLUE, "o"),
}
OTHERS = ((style.GREEN, "D"), (style.PURPLE, "v"), (style.SKY, "X"), (style.WINE, "<"), (style.TEAL, ">"))
SMALL = 1e-3  # nats, below which the scale of changes is linear
WIDE = (4.4, 3.4)
AT_THE_END: dict[str, Callable[[Result], float]] = {  # of a run, by the labels of axes
    "training loss (nats)": lambda run: run["history"]["loss"][-1],
    "training accuracy (%)": lambda run: 100 * run["train_accuracy"],
    "test accuracy (%)": lambda run: 100 * run["test_accuracy"],
}
Points = list[list[float | None]]  # a list a run, a value an epoch


def reconciliation(study: Study, found: Results) -> Figure | None:
    """Figure 2: SGR loss, mean over neighbours, and validation accuracy."""
    drawn = _drawn(study, found)
    if not any(run["history"]["sgr"][0] is not None for runs in drawn.values() for run in runs):
        return None
    figure, (left, right) = style.panels(2, size=WIDE)
    looks = looks_of(drawn)
    for name, runs in drawn.items():
        colour, _ = looks[name]
        _band(left, [run["history"]["sgr"] for run in runs], name, colour)
        _band(right, [_percent(run["history"]["val_accuracy"]) for run in runs], name, colour)
    left.set(ylabel="SGR loss, mean over neighbours", ylim=(0, None))
    right.set(ylabel="validation accuracy (%)")
    style.legend(figure, [left, right])
    return figure


def input_change(study: Study, found: Results) -> Figure | None:
    """Figure 3: the change of the loss of every module by the step of those before it."""
    drawn = _drawn(study, found)
    drawn = {name: runs for name, runs in drawn.items() if all("input_change" in run["history"] for run in runs)}
    if not drawn:
        return None
    modules = next(iter(drawn.values()))[0]["modules"] - 1
    figure, axes = style.panels(modules)
    looks = looks_of(drawn)
    for k, axis in enumerate(axes):
        for name, runs in drawn.items():
            changes = [[None if row is None else row[k] for row in run["history"]["input_change"]] for run in runs]
            _band(axis, changes, name, looks[name][0])
        axis.axhline(0, color=style.BLACK, linestyle="--", linewidth=1)
        axis.set_title(f"module {k + 2}", fontsize=10)
        axis.set_yscale("symlog", linthresh=SMALL)
    extent = max(max(abs(axis.dataLim.y0), abs(axis.dataLim.y1)) for axis in axes)
    for axis in axes:  # modules are compared
        axis.set_ylim(-1.3 * extent, 1.3 * extent)
    axes[0].set(ylabel="change of the loss (nats)")
    style.legend(figure, axes)
    return figure


def by_depth(study: Study, found: Results) -> Figure | None:
    """Training loss and accuracies of every method by depth, of the learning rate that is best on validation images."""
    if not found:
        return None
    chosen = best_by_depth(found)
    methods, depths = (list(dict.fromkeys(names)) for names in zip(*chosen, strict=True))
    depths.sort()
    figure, axes = style.panels(len(AT_THE_END))
    for axis, (label, value) in zip(axes, AT_THE_END.items(), strict=True):
        for method, (colour, marker) in looks_of(methods).items():
            runs = {depth: chosen[method, depth][1] for depth in depths if (method, depth) in chosen}
            points = [mean(list(map(value, of_depth))) for of_depth in runs.values()]
            axis.plot([depths.index(depth) for depth in runs], points, color=colour, marker=marker, label=method)
        axis.set_xticks(range(len(depths)), depths)
        axis.set(xlabel="depth, convolutions", ylabel=label, ylim=(0, 1.05 * axis.dataLim.y1))
    style.legend(figure, axes)
    return figure


def looks_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each."""
    others = itertools.cycle(OTHERS)
    return {name: LOOKS.get(name) or next(others) for name in names}


def _drawn(study: Study, found: Results) -> Results:
    return {name: found[name] for name in study.drawn if name in found}


def _percent(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def _band(axis: Any, runs: Points, name: str, colour: str) -> None:
    """A line through the means over the runs, in a band that holds them all."""
    by_epoch = {
        epoch: values
        for epoch in range(1, 1 + max(map(len, runs)))
        if (values := [run[epoch - 1] for run in runs if epoch <= len(run) and run[epoch - 1] is not None])
    }
    axis.plot(
        list(by_epoch),
        [mean(values) for values in by_epoch.values()],
        color=colour,
        label=name,
        linewidth=1.5,
        marker="o" if len(by_epoch) == 1 else "",
    )
    low, high = ([limit(values) for values in by_epoch.values()] for limit in (min, max))
    axis.fill_between(list(by_epoch), low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
