"""Markdown tables of stored results, as the report and the documentation show them. Ratios are of medians."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .stored import BASELINES, OURS, PRODUCTS, PUBLISHED, SETTING, Row, back_propagation, grouped, one

CASE = ("op", "mode", "shape", "dtype")
MIB = 2**20


def roofline(result: dict[str, Any]) -> str:
    header = ["limit", "dtype", "size", "time, ms", "achieved"]
    rows = [
        [
            row["limit"],
            row["dtype"],
            str(row["size"]),
            _significant(1e3 * row["seconds"]),
            _throughput(row, {"copy": "memory", "gemm": "compute"}[row["limit"]]),
        ]
        for row in result["rows"]
    ]
    return markdown([header, *rows])


def micro(result: dict[str, Any]) -> str:
    """Our kernels: speed-up over each baseline, and how near they come to what the device can do."""
    baselines = [name for name in BASELINES if one(result["rows"], provider=name)]
    header = ["operator", "shape", "dtype", "kernel", "time, ms", *(f"over {name}" for name in baselines)]
    header += ["achieved", "of the limit"]
    rows = [
        [
            *_case(row),
            _significant(1e3 * row["seconds"]),
            *(_speed_up(case, name, row) for name in baselines),
            _throughput(row, row["bound"]),
            _number(row["fraction"], ".0%"),
        ]
        for case in grouped(result["rows"], CASE).values()
        for row in case
        if row["provider"] in OURS
    ]
    return markdown([header, *rows])


def blocks(result: dict[str, Any]) -> str:
    """Closed-form SGR of a block against the bare products it consists of, and against the double backward."""
    header = ["block", "shape", "dtype", "kernel", "time over its bare products", f"speed-up over {PUBLISHED}"]
    rows = [
        [*_case(row), _over(row, _products(case), "seconds"), _speed_up(case, PUBLISHED, row)]
        for case in grouped(result["rows"], CASE).values()
        for row in case
        if row["provider"] in OURS and _products(case) and one(case, provider=PUBLISHED)
    ]
    return markdown([header, *rows])


def step(result: dict[str, Any]) -> str:
    """Time and memory of whole steps and of single modules, over plain local learning and over back-propagation."""
    rows = result["rows"]
    methods = _methods(rows)
    names = (*SETTING, "precision", "count", "cuts", "module")
    lines = []
    for case in grouped((row for row in rows if row["method"] != "BP"), names).values():
        name = f"{setting(case[0])}, K = {case[0]['count']}"
        what = "whole step" if case[0]["module"] is None else f"module {case[0]['module']}"
        plain, bp = one(case, method="plain local"), back_propagation(rows, case[0])
        bases = {"plain local": plain} if case[0]["module"] else {"plain local": plain, "BP": bp}
        for base_name, base in bases.items():
            for quantity, key in (("time", "seconds"), ("memory", "peak_bytes")):
                cells = [_over(one(case, method=method), base, key) for method in methods]
                lines.append([name, f"{what}: {quantity} over {base_name}", *cells])
    return markdown([["", "", *methods], *lines])


def whole_steps(result: dict[str, Any]) -> str:
    """Time and memory of whole steps over those of back-propagation, a line a method."""
    rows = [row for row in result["rows"] if row["module"] is None]
    methods = _methods(rows)
    lines = []
    for case in grouped(rows, (*SETTING, "precision", "count", "cuts")).values():
        bp = back_propagation(rows, case[0])
        found = [one(case, method=method) for method in methods]
        cells = [", ".join(filter(None, (_over(row, bp, key) for key in ("seconds", "peak_bytes")))) for row in found]
        lines.append([f"{setting(case[0])}, K = {case[0]['count']}", *cells])
    return markdown(_transposed([["time, memory over BP", *methods], *lines]))


def memory(result: dict[str, Any]) -> str:
    """Peak of a step over that of back-propagation, beside what the paper's Table 5 says of SGR; a line a method."""
    rows = [row for row in result["rows"] if row["module"] is None]
    methods = _methods(rows)
    lines = []
    for case in grouped(rows, (*SETTING, "how")).values():
        bp = one(case, method="BP")
        size = f"{bp['peak_bytes'] / MIB:.0f}" if bp else ""
        unsplit = [row for row in case if row["count"] == 1]
        for (count,), split in grouped((row for row in case if row["count"] > 1), ("count",)).items():
            shares = [_least(unsplit + split, method, "over_bp", ".1%") for method in methods]
            paper = {f"{row['paper_over_bp']:.1%}" for row in split if row["paper_over_bp"] is not None}
            lines.append([setting(case[0]), str(count), size, *shares, ", ".join(sorted(paper)), case[0]["how"]])
    return markdown(_transposed([["", "K", "BP, MiB", *methods, "SGR in the paper", "measured by"], *lines]))


def memory_of_modules(result: dict[str, Any]) -> str:
    """Peak of every module that reconciles over that of its own plain local step."""
    rows = [row for row in result["rows"] if row["module"] is not None]
    methods = _methods(rows)
    lines = []
    for case in grouped(rows, (*SETTING, "count", "module")).values():
        shares = [_least(case, method, "over_plain", ".2f") for method in methods]
        lines.append([f"{setting(case[0])}, K = {case[0]['count']}", str(case[0]["module"]), *shares])
    return markdown([["", "module", *methods], *lines])


def cuts(result: dict[str, Any]) -> str:
    header = ["network", "batch", "K", "method", "modules begin at the blocks", "peak, MiB"]
    rows = [
        [
            row["network"],
            str(row["batch"]),
            str(row["count"]),
            row["method"],
            ", ".join(map(str, row["cuts"])),
            f"{row['peak_bytes'] / MIB:.0f}",
        ]
        for row in result["rows"]
    ]
    return markdown([header, *rows])


def gradients(result: dict[str, Any]) -> str:
    """Errors by precision: of the directional engine in both orders, and of the autograd engine."""
    precisions = list(dict.fromkeys(row["precision"] for row in result["rows"]))
    columns = [("order 1", {"order": 1}), ("order 2", {"order": 2}), ("autograd", {"order": None})]
    header = ["", "", "spread", *(f"{precision}: {name}" for precision in precisions for name, _ in columns)]
    rows = []
    for case in grouped(result["rows"], ("network", "module", "when", "relative_floor", "images")).values():
        errors = []
        for precision, (_, wanted) in itertools.product(precisions, columns):
            found = one(({"order": None, **row} for row in case), precision=precision, **wanted)
            errors.append(_finite(found, "relative_error", ".4f"))
        name = f"{case[0]['network']}, module {case[0]['module']}"
        rows.append([name, case[0]["when"], f"{case[0]['spread']:.0f}", *errors])
    return markdown([header, *rows])


def compiled(result: dict[str, Any]) -> str:
    """What compiling costs once, and what a step takes then."""
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    rows = []
    for case in grouped(result["rows"], ("network", "batch")).values():
        times = [_number((one(case, method=method) or {}).get("seconds"), ".3f") for method in methods]
        rows.append([f"{case[0]['network']}, batch {case[0]['batch']}", f"{case[0]['warm_up']:.1f}", *times])
    return markdown([["", "warm-up, s", *(f"{method}, s" for method in methods)], *rows])


def loader(result: dict[str, Any]) -> str:
    """Images a second."""
    names = list(dict.fromkeys(row["loader"] for row in result["rows"]))
    rows = []
    for case in grouped(result["rows"], ("images", "size", "batch", "workers")).values():
        facts = [str(case[0][name]) for name in ("images", "size", "batch", "workers")]
        rates = [_number((one(case, loader=name) or {}).get("images_per_second"), ".0f") for name in names]
        rows.append([*facts, *rates])
    return markdown([["images", "px", "batch", "workers", *(f"{name}, images/s" for name in names)], *rows])


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "roofline": roofline,
    "micro": micro,
    "step": step,
    "memory": memory,
    "cuts": cuts,
    "gradients": gradients,
    "compiled": compiled,
    "loader": loader,
}


def markdown(rows: list[list[str]]) -> str:
    """The first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _transposed(rows: list[list[str]]) -> list[list[str]]:
    """Methods are many: they go down the page."""
    return list(map(list, zip(*rows, strict=True)))


def shape(row: Row) -> str:
    return f"({', '.join(map(str, row['shape']))})"


def setting(row: Row) -> str:
    half = ", bfloat16" if row.get("precision") == "bfloat16" else ""
    return f"{row['network']}, batch {row['batch']}, {row['image_size']} px{half}"


def _products(case: list[Row]) -> Row | None:
    return next((row for row in case if row["provider"] in PRODUCTS), None)


def _case(row: Row) -> list[str]:
    return [f"{row['op']}, {row['mode']}", shape(row), row["dtype"], row["provider"]]


def _throughput(row: Row, bound: str) -> str:
    return f"{_significant(row['gbps'])} GB/s" if bound == "memory" else f"{_significant(row['tflops'])} TFLOP/s"


def _methods(rows: list[Row]) -> list[str]:
    """All but the baseline."""
    return list(dict.fromkeys(row["method"] for row in rows if row["method"] != "BP"))


def _least(rows: list[Row], method: str, key: str, form: str) -> str:
    """Of all cuts that were tried."""
    return _number(min((row[key] for row in rows if row["method"] == method), default=None), form)


def _speed_up(case: list[Row], baseline: str, row: Row) -> str:
    """With a star where only one of them is timed with the launches of its kernels."""
    other = one(case, provider=baseline)
    star = " *" if other and other["timed"] != row["timed"] else ""
    return _over(other, row, "seconds") + star


def _over(row: Row | None, base: Row | None, key: str) -> str:
    """Nothing where one of them was not measured, or its memory is not known."""
    return f"{row[key] / base[key]:.2f}x" if row and base and row[key] and base[key] else ""


def _finite(row: Row | None, name: str, form: str) -> str:
    return "not finite" if row and row[name] is None else _number(row and row[name], form)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _significant(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{float(f'{value:.4g}'):g}" if value < 1e4 else f"{value:.0f}"
