"""How pictures look: colours, markers, axes, files."""

from __future__ import annotations

import io
import math
import pathlib
import zlib
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from .stored import CHECKPOINTED, family

# Okabe and Ito: safe for colour-blind readers.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
WINE, TEAL = "#882255", "#44AA99"  # of Tol, likewise

PROVIDERS = {
    "default": (PURPLE, "p"),
    "cpu": (BLUE, "o"),
    "triton": (GREEN, "D"),
    "cuda": (VERMILLION, "s"),
    "reference": (GREY, "x"),
    "eager": (BLACK, "^"),
    "torch.relu": (SKY, "<"),
    "torch.compile": (ORANGE, "v"),
    "library GEMM": (SKY, "P"),
    "library conv": (SKY, "P"),
    "Algorithm 1": (PURPLE, "*"),
}
_METHODS = {
    "BP": (BLACK, "s"),
    "plain local": (ORANGE, "^"),
    "reforward": (SKY, "<"),
    "greedy": (PURPLE, "P"),
    "directional": (BLUE, "o"),
    "fused": (GREEN, "D"),
    "Algorithm 1": (VERMILLION, "v"),
    **{name: (WINE, marker) for name, marker in zip(("dgl", "infopro", "dni"), "oPs", strict=True)},
    **{name: (TEAL, marker) for name, marker in zip(("fa", "dfa", "drtp", "pepita"), "^Dv<", strict=True)},
}
# For what has no looks of its own; those of the operators need two colours more than the palette has.
_COLOURS = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY, "#F0E442", WINE]
_MARKERS = "osD^vPX<>h"
DASHES = {"float32": "-", "bfloat16": "--", "float16": ":", "float64": "-."}
_FILLS = {"float32": "full", "bfloat16": "none", "float16": "left", "float64": "top"}
_DPI = 140


def method_style(method: str) -> dict[str, Any]:
    """Colour and marker of the family, grey for those of plug-ins; with checkpointing hollow, other variants half."""
    name = family(method)
    colour, marker = _METHODS.get(name) or (GREY, _MARKERS[zlib.crc32(name.encode()) % len(_MARKERS)])
    fill = "none" if CHECKPOINTED in method else "full" if name == method else "left"
    return {"color": colour, "marker": marker, "fillstyle": fill, "markerfacecoloralt": "white"}


def provider_style(provider: str) -> dict[str, Any]:
    colour, marker = PROVIDERS[provider]
    return {"color": colour, "marker": marker}


def point_style(colour: int, marker: int, dtype: str) -> dict[str, Any]:
    """Of the things that have no looks of their own, by the number of their kind; the dtype fills the marker."""
    looks = {"color": _COLOURS[colour % len(_COLOURS)], "marker": _MARKERS[marker % len(_MARKERS)]}
    return {**looks, "linestyle": "none", "markersize": 5, "fillstyle": _FILLS[dtype]}


def panels(count: int, columns: int = 3, size: tuple[float, float] = (3.9, 3.2)) -> tuple[Figure, list[Any]]:
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def logarithmic(axis: Any, *names: str, unit: str = "") -> None:
    """Log scale, with plain numbers on few ticks however short or long it is; to be called when all is drawn."""
    for name in names:
        axis.set(**{f"{name}scale": "log"})
        ticks = getattr(axis, f"{name}axis")
        low, high = getattr(axis, f"get_{name}lim")()
        ticks.set_major_locator(_few_ticks(high / low))
        _plain(ticks, unit)


def _few_ticks(ratio: float) -> Locator:
    if ratio < 3:
        return MaxNLocator(5, steps=[1, 2, 5, 10])
    steps = (1, 2, 3, 5) if ratio < 10 else (1, 2, 5) if ratio < 200 else (1,)
    return LogLocator(subs=steps, numticks=12)


def counts(axis: Any, values: set[int]) -> None:
    """The horizontal axis for numbers of modules: log scale, a tick at each of them."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(sorted(values)))
    _plain(axis.xaxis)
    axis.set_xlabel("K, modules")


def _plain(ticks: Any, unit: str = "") -> None:
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{short(value)}{unit}"))


def short(value: float) -> str:
    """200000 -> 200k."""
    size, letter = next(((s, c) for s, c in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= max(s, 1e4)), (1, ""))
    return f"{value / size:g}{letter}"


def by(shape: tuple[int, ...]) -> str:
    """(64, 200704) -> 64x200704, (1, 50000000) -> 1x50M."""
    return "x".join(short(size) if size >= 1e6 else str(size) for size in shape)


def legend(figure: Figure, axes: list[Any]) -> None:
    """One for all panels, below them."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    _legend_below(figure, list(handles.values()), list(handles))


def key(figure: Figure, colours: list[str], markers: list[str]) -> None:
    """A legend of what the colours of :func:`point_style` mean and what its markers mean, below the panels."""
    looks = [{**point_style(i, 0, "float32"), "marker": "s"} for i in range(len(colours))]
    looks += [{**point_style(0, i, "float32"), "color": GREY} for i in range(len(markers))]
    _legend_below(figure, [Line2D([], [], **look) for look in looks], [*colours, *markers])


def _legend_below(figure: Figure, handles: list[Any], names: list[str]) -> None:
    width = 0.7 + 0.08 * max(map(len, names))  # inches that the longest entry takes
    columns = max(1, min(len(names), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + 0.24 * max(0, math.ceil(len(names) / columns) - 2))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, path: pathlib.Path) -> None:
    """With a palette: a third of the size. The method keeps rare colours, which the usual one takes for noise."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    image = Image.open(buffer).convert("RGB")
    image.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
