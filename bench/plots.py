"""Pictures of stored results.

Each function takes the parts of one device and gives figures by name, none where the results have nothing to draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from matplotlib.figure import Figure

from . import labels, style
from .stored import BASELINES, CAPTURED, OURS, PUBLISHED, Parts, Row, back_propagation, family, frontier, grouped, one
from .tables import setting

Sizes = Callable[[list[int]], list[int]]


def speed_ups(parts: Parts) -> dict[str, Figure]:
    """A figure an operator, a panel a mode and dtype: how many times faster ours is than each baseline, by shape."""
    figures = {}
    for (op,), rows in grouped(parts["micro"]["rows"], ("op",)).items():
        cases = {name: r for name, r in grouped(rows, ("dtype", "mode")).items() if _ratios(r)}
        if cases:
            figure, axes = style.panels(len(cases), columns=len({mode for _, mode in cases}))
            for axis, ((dtype, mode), r) in zip(axes, cases.items(), strict=True):
                _draw_speed_ups(axis, r)
                axis.set_title(f"{op}, {mode}, {dtype}", fontsize=10)
            style.legend(figure, axes)
            figures[f"speed-up-{op}"] = figure
    return figures


def _ratios(rows: list[Row]) -> dict[tuple[str, str], dict[tuple[int, ...], float]]:
    """Of (ours, baseline): speed-up by shape, small ones first."""
    ratios: dict[tuple[str, str], dict[tuple[int, ...], float]] = {}
    for (shape,), case in sorted(grouped(rows, ("shape",)).items(), key=lambda item: _size(item[0][0])):
        for ours, base in product(OURS, (*BASELINES, PUBLISHED)):
            row, other = one(case, provider=ours), one(case, provider=base)
            if row and other:
                ratios.setdefault((ours, base), {})[shape] = other["seconds"] / row["seconds"]
    return ratios


def _size(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return math.prod(shape), shape


def _draw_speed_ups(axis: Any, rows: list[Row]) -> None:
    ratios = _ratios(rows)
    shapes = sorted({shape for values in ratios.values() for shape in values}, key=_size)
    for (ours, base), values in ratios.items():
        looks = {"color": style.PROVIDERS[base][0], "marker": style.PROVIDERS[ours][1], "markersize": 5}
        axis.plot([shapes.index(s) for s in values], list(values.values()), label=f"{ours} over {base}", **looks)
    axis.axhline(1, color=style.BLACK, linewidth=1, linestyle=":")
    axis.set_xticks(range(len(shapes)), list(map(style.by, shapes)), rotation=35 if len(shapes) < 9 else 65, ha="right")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylabel("speed-up (times)")
    style.logarithmic(axis, "y", unit="x")


def roofline(parts: Parts) -> dict[str, Figure]:
    """Our kernels under the measured limits: by size where memory limits them, by intensity where compute does."""
    rows, limits = parts["micro"]["rows"], parts["roofline"]["rows"]
    ours = grouped((row for row in rows if row["provider"] in OURS), ("provider", "bound"))
    if not ours or not one(limits, limit="copy"):
        return {}
    figure, axes = style.panels(len(ours), columns=2, size=(5.2, 4.0))
    colours, markers = (list(dict.fromkeys(row[name] for row in rows)) for name in ("op", "mode"))
    for axis, ((provider, bound), case) in zip(axes, ours.items(), strict=True):
        draw, draw_limit = _BOUND[bound]
        for (op, mode, dtype), points in grouped(case, ("op", "mode", "dtype")).items():
            draw(axis, points, **style.point_style(colours.index(op), markers.index(mode), dtype))
        draw_limit(axis, case, limits)
        axis.set_title(f"{provider} kernels limited by {bound}", fontsize=10)
        style.logarithmic(axis, "x", "y")
    style.key(figure, colours, markers)
    return {"roofline": figure}


def _draw_memory_bound(axis: Any, rows: list[Row], **looks: Any) -> None:
    axis.plot([row["bytes"] / 1e6 for row in rows], [row["gbps"] for row in rows], **looks)
    axis.set(xlabel="bytes moved (MB)", ylabel="achieved (GB/s)")


def _draw_compute_bound(axis: Any, rows: list[Row], **looks: Any) -> None:
    axis.plot([row["flops"] / row["bytes"] for row in rows], [row["tflops"] for row in rows], **looks)
    axis.set(xlabel="arithmetic intensity (FLOPs per byte)", ylabel="achieved (TFLOP/s)")


def _draw_bandwidth(axis: Any, _rows: list[Row], limits: list[Row]) -> None:
    axis.axhline(bandwidth(limits), color=style.BLACK, linewidth=1.5)


def _draw_roof(axis: Any, rows: list[Row], limits: list[Row]) -> None:
    """Intensity times bandwidth up to the best product of each dtype that occurs."""
    slope = bandwidth(limits) / 1e3
    high = 2 * max(row["flops"] / row["bytes"] for row in rows)
    for (dtype,), products in grouped((row for row in limits if row["limit"] == "gemm"), ("dtype",)).items():
        if one(rows, dtype=dtype):
            top = max(row["tflops"] for row in products)
            low = min(top / slope, *(row["flops"] / row["bytes"] for row in rows)) / 2
            x, y = [low, top / slope, max(high, 2 * top / slope)], [low * slope, top, top]
            axis.plot(x, y, color=style.BLACK, linestyle=style.DASHES[dtype], linewidth=1.5)
            axis.annotate(dtype, (x[-1], top), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8)


_BOUND = {"memory": (_draw_memory_bound, _draw_bandwidth), "compute": (_draw_compute_bound, _draw_roof)}


def bandwidth(limits: list[Row]) -> float:
    """GB/s of the largest copy: smaller ones may stay in a cache."""
    return max((row for row in limits if row["limit"] == "copy"), key=lambda row: row["size"])["gbps"]


def time_and_memory(parts: Parts) -> dict[str, Figure]:
    """A panel a network: every method by time and peak memory of a whole step, over those of back-propagation. Those of
    captured steps, of which the memory is not known, are in the table.
    """
    whole = (row for row in parts["step"]["rows"] if row["module"] is None)
    rows = [row for row in whole if not row["method"].endswith(CAPTURED)]
    networks = grouped(rows, ("network", "precision")).values()
    shown = [setting for case in networks if (setting := _one_setting(case))]
    if not shown:
        return {}
    figure, axes = style.panels(len(shown), size=(4.2, 3.6))
    drawn = [_draw_methods(axis, *setting) for axis, setting in zip(axes, shown, strict=True)]
    style.legend(figure, axes)
    figure.supylabel("peak memory of a step, over BP")
    figure.draw_without_rendering()  # the labels need the final size of the axes
    figure.set_layout_engine("none")
    for axis, (points, lines) in zip(axes, drawn, strict=True):
        labels.place(axis, points, lines)
    return {"time-and-memory": figure}


def _one_setting(rows: list[Row]) -> tuple[Row, list[Row]] | None:
    """BP, and the rows of the batch and the number of modules for which most methods were measured."""
    cases = grouped((row for row in rows if row["method"] != "BP"), ("batch", "image_size", "count", "cuts")).values()
    with_bp = [(bp, case) for case in cases if (bp := back_propagation(rows, case[0]))]
    return max(with_bp, key=lambda pair: len(pair[1]), default=None)


def _draw_methods(axis: Any, bp: Row, rows: list[Row]) -> tuple[list[labels.Label], list[Any]]:
    """The labels that the points need, and the lines that they are to keep off."""
    looks = {"color": style.BLACK, "linewidth": 1, "linestyle": ":"}
    points, lines = [], [axis.axvline(1, **looks), axis.axhline(1, **looks)]
    known, exact = [], []
    for row in (bp, *rows):
        looks, x = style.method_style(row["method"]), row["seconds"] / bp["seconds"]
        if row["peak_bytes"] is None:
            lines.append(axis.axvline(x, ymax=0.1, color=looks["color"]))
            points.append(labels.Label(f"{row['method']}\n(memory unknown)", x, 0.05, looks["color"]))
            continue
        y = row["peak_bytes"] / bp["peak_bytes"]
        known.append((x, y))
        if family(row["method"]) == "BP":
            exact.append((x, y))
        spread = [[x - row["low"] / bp["seconds"]], [row["high"] / bp["seconds"] - x]]
        bar = axis.errorbar(x, y, xerr=spread, markersize=7, linewidth=1, **looks)
        lines += bar.lines[2]
        points.append(labels.Label(row["method"], x, y, looks["color"]))
    ring = {"marker": "o", "markersize": 14, "fillstyle": "none", "color": style.BLACK, "linestyle": "none"}
    axis.plot(*zip(*exact, strict=True), label="exact back-propagation", **ring)
    edge = {"color": style.GREY, "linewidth": 1.2, "drawstyle": "steps-post", "zorder": 0}
    axis.plot(*zip(*frontier(known), strict=True), label="frontier: nothing is faster and smaller", **edge)
    axis.set(
        xlabel="time of a step, over BP",
        xlim=(0, 1.25 * max(p.x for p in points)),
        ylim=(0, 1.2 * max(p.y for p in points)),
    )
    axis.set_title(f"{setting(rows[0])}, K = {rows[0]['count']}", fontsize=10)
    return points, lines


def memory_by_count(parts: Parts) -> dict[str, Figure]:
    """A panel a network: peak of a step over that of back-propagation, by the number of modules."""
    rows = _with_family([row for row in parts["memory"]["rows"] if row["module"] is None])
    cases = grouped(rows, ("family", "batch", "image_size", "how"))
    if not cases:
        return {}
    figure, axes = style.panels(len(cases))
    for axis, (name, case) in zip(axes, cases.items(), strict=True):
        for (method,), r in _by_modules(case):
            x, y = [row["modules"] for row in r], [100 * row["over_bp"] for row in r]
            axis.plot(x, y, label=method, markersize=6, **style.method_style(method))
        paper = {row["modules"]: 100 * row["paper_over_bp"] for row in case if row["paper_over_bp"] is not None}
        looks = {"color": style.PURPLE, "marker": "*", "markersize": 11, "linestyle": "none"}
        axis.plot(list(paper.keys()), list(paper.values()), label="SGR in the paper", **looks)
        axis.axhline(100, color=style.BLACK, linewidth=1, linestyle=":")
        axis.set(ylabel="peak memory over BP (%)", ylim=(0, None))
        style.counts(axis, {row["modules"] for row in case})
        axis.set_title("{}, batch {}, {} px\n({})".format(*name), fontsize=10)
    style.legend(figure, axes)
    return {"memory-by-modules": figure}


def _by_modules(rows: list[Row]) -> Iterable[tuple[tuple[str], list[Row]]]:
    return grouped(sorted(rows, key=lambda row: row["modules"]), ("method",)).items()


def scaling_with_size(parts: Parts) -> dict[str, Figure]:
    return _scaling(parts, "n", "B", varied=lambda shape: shape[1:], fixed=lambda shape: shape[:1])


def scaling_with_batch(parts: Parts) -> dict[str, Figure]:
    return _scaling(parts, "B", "n", varied=lambda shape: shape[:1], fixed=lambda shape: shape[1:])


def _scaling(parts: Parts, name: str, other: str, varied: Sizes, fixed: Sizes) -> dict[str, Figure]:
    """A panel an operator: time of every provider by one size, at the value of the other with most measurements.

    Of the modes the last, which does most, and of the dtypes the first.
    """
    lines = {}
    for (op,), rows in grouped(parts["micro"]["rows"], ("op",)).items():
        mode, dtype = rows[-1]["mode"], rows[0]["dtype"]
        by_other: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            if row["mode"] == mode and row["dtype"] == dtype:
                by_other.setdefault(tuple(fixed(row["shape"])), []).append(row)
        value, case = max(by_other.items(), key=lambda item: len(grouped(item[1], ("shape",))), default=(None, []))
        if len(grouped(case, ("shape",))) > 1:
            lines[f"{op}, {mode}\n{dtype}, {other} = {style.by(value)}"] = case
    if not lines:
        return {}
    figure, axes = style.panels(len(lines))
    for axis, (title, rows) in zip(axes, lines.items(), strict=True):
        axis.set(title=title, xscale="log", yscale="log", xlabel=name, ylabel="time (ms)")
        axis.title.set_fontsize(10)
        _draw_times_by_size(axis, rows, lambda row: math.prod(varied(row["shape"])))
        style.logarithmic(axis, "x", "y")
    style.legend(figure, axes)
    return {f"scaling-with-{name}": figure}


def _draw_times_by_size(axis: Any, rows: list[Row], size: Callable[[Row], int]) -> None:
    for (provider,), case in grouped(sorted(rows, key=size), ("provider",)).items():
        _draw_times(axis, list(map(size, case)), case, label=provider, **style.provider_style(provider))
    ours = [row for row in rows if row["provider"] in OURS]
    if ours:
        largest = max(ours, key=size)
        _proportional(axis, size(largest), 1e3 * largest["seconds"])


def scaling_with_modules(parts: Parts) -> dict[str, Figure]:
    """A panel a network: time of a step by the number of modules, or by depth where every layer is a module."""
    rows = _with_family([row for row in parts["step"]["rows"] if row["module"] is None])
    cases = grouped(rows, ("family", "batch", "image_size", "precision")).items()
    cases = {name: case for name, case in cases if _several_counts(case)}
    if not cases:
        return {}
    figure, axes = style.panels(len(cases))
    for axis, (name, case) in zip(axes, cases.items(), strict=True):
        for (method,), r in _by_modules(case):
            _draw_times(axis, [row["modules"] for row in r], r, label=method, **style.method_style(method))
        axis.set_title("{}, batch {}, {} px\n{}".format(*name), fontsize=10)
        axis.set_ylabel("time of a step (ms)")
        style.logarithmic(axis, "y")
        style.counts(axis, {row["modules"] for row in case})
    style.legend(figure, axes)
    return {"scaling-with-modules": figure}


def _several_counts(rows: list[Row]) -> bool:
    return any(len({row["modules"] for row in r}) > 1 for _, r in _by_modules(rows))


def _with_family(rows: list[Row]) -> list[Row]:
    """plainnet4 in 4 modules, plainnet8 in 8 are one network of several depths; all others have their K."""
    numbers = {row["network"]: re.fullmatch(r"(\D+)(\d+)", row["network"]) for row in rows}
    deep = {row["network"] for row in rows if (n := numbers[row["network"]]) and int(n[2]) == row["count"]}
    return [
        {**row, "family": f"{numbers[row['network']][1]}, K = depth", "modules": int(numbers[row["network"]][2])}
        if row["network"] in deep
        else {**row, "family": row["network"], "modules": row["count"]}
        for row in rows
    ]


def _draw_times(axis: Any, x: list[int], rows: list[Row], **looks: Any) -> None:
    y = [1e3 * row["seconds"] for row in rows]
    below, above = ([1e3 * abs(row[name] - row["seconds"]) for row in rows] for name in ("low", "high"))
    axis.errorbar(x, y, yerr=[below, above], markersize=5, linewidth=1.2, elinewidth=1, **looks)


def _proportional(axis: Any, x: int, y: float) -> None:
    """A slope to compare with, through the largest of our measurements: half the size, half the time."""
    limits = {"xlim": axis.get_xlim(), "ylim": axis.get_ylim()}
    left = min(line.get_xdata().min() for line in axis.get_lines())
    axis.plot([left, x], [y * left / x, y], color=style.GREY, linewidth=1, linestyle=":", label="proportional")
    axis.set(**limits)
