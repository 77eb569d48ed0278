"""Folders of stored results: read, and checked, so that whatever is not a result is refused by its name."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from . import results

Row = dict[str, Any]
Parts = dict[str, dict[str, Any]]  # part -> result, of one device

# What a row is about: no two rows of a part agree in all of these.
SETTING = ("network", "batch", "image_size")
_MODULE = (*SETTING, "count", "cuts", "module", "method")
_AGREEMENT = ("network", "module", "when", "precision", "relative_floor", "images", "engine", "against")
IDENTITY = {
    "roofline": ("limit", "dtype", "size"),
    "micro": ("op", "mode", "provider", "shape", "dtype", "timed"),
    "step": (*_MODULE, "precision"),
    "memory": (*_MODULE, "how"),
    "cuts": ("network", "batch", "count", "method"),
    "gradients": (*_AGREEMENT, "order"),
    "compiled": ("network", "batch", "method"),
    "loader": ("loader", "images", "workers", "batch", "size"),
}
# What was found of it.
_TIME = ("seconds", "low", "high", "repeats")
FINDINGS = {
    "roofline": _TIME,
    "micro": (*_TIME, "bytes", "flops", "gbps", "tflops", "bound", "fraction"),
    "step": (*_TIME, "peak_bytes"),
    "memory": ("peak_bytes",),
    "cuts": ("cuts", "peak_bytes"),
    "gradients": ("spread", "cosine", "relative_error"),
    "compiled": (*_TIME, "warm_up", "error"),
    "loader": (*_TIME, "images_per_second"),
}
# What some of them may be: each has a column, a colour or a line of its own.
DTYPES = ("float32", "bfloat16", "float16", "float64")
OURS = ("default", "cpu", "triton", "cuda")
BASELINES = ("reference", "eager", "torch.relu", "torch.compile")
CHECKPOINTED = " + checkpointing"  # ends the name of a method whose blocks are computed twice
CAPTURED = ", captured"  # behind the name of a method: its step as a CUDA graph
PRODUCTS, PUBLISHED = ("library GEMM", "library conv"), "Algorithm 1"
VALUES = {
    "roofline": {"limit": ("copy", "gemm"), "dtype": DTYPES},
    "micro": {"provider": (*OURS, *BASELINES, *PRODUCTS, PUBLISHED), "dtype": DTYPES, "bound": ("memory", "compute")},
}
MACHINE = ("device", "name", "threads", "python", "torch", "sgr_kernels", "revision")
UNKNOWN = ("step", "peak_bytes", None)  # of compiled code on a CPU
_POSITIVE = ("seconds", "low", "high", "peak_bytes")
_NAME = re.compile(r"(?P<part>.+)-(?P<device>cpu|cuda)\.json")


class BadResult(Exception):
    """A file that is no result of ``sgr-bench``, or a folder without one."""


def read(folder: pathlib.Path) -> dict[str, Parts]:
    """Every PART-DEVICE.json, by device and part."""
    devices: dict[str, Parts] = {}
    for path in sorted(folder.glob("*.json")):
        if match := _NAME.fullmatch(path.name):
            devices.setdefault(match["device"], {})[match["part"]] = _result(path, **match.groupdict())
    if not devices:
        raise BadResult(f"{folder}: no file PART-DEVICE.json in this folder")
    return devices


def others(folder: pathlib.Path) -> list[str]:
    """Names of the JSON files that :func:`read` passes over."""
    return sorted(path.name for path in folder.glob("*.json") if not _NAME.fullmatch(path.name))


def identity(part: str, row: Row) -> tuple[Any, ...]:
    return tuple(_hashable(row.get(name)) for name in IDENTITY[part])


def describe(part: str, row: Row) -> str:
    """The identity of a row for a reader."""
    values = {name: row[name] for name in IDENTITY[part] if row.get(name) is not None}
    words = [value if isinstance(value, str) else f"{name} {value}" for name, value in values.items()]
    return f"{part}: {', '.join(words)}"


def family(method: str) -> str:
    """Of a variant: "directional, every 4th" is of "directional", "BP + checkpointing" of "BP"."""
    return method.partition(",")[0].removesuffix(CHECKPOINTED)


def grouped(rows: Iterable[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that agree in ``names`` together, in the order of their first ones."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_hashable(row[name]) for name in names), []).append(row)
    return groups


def one(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """The first row that has these values."""
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def back_propagation(rows: Sequence[Row], row: Row) -> Row | None:
    """The whole step of BP on the same batch, measured along with ``row`` where it was measured more than once."""
    like = {"method": "BP", **{name: row[name] for name in (*SETTING, "precision")}}
    return one(rows, count=row["count"], **like) or one(rows, **like)


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other is below in one number without being above in the other, by the first one."""
    best: list[tuple[float, float]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _result(path: pathlib.Path, part: str, device: str) -> dict[str, Any]:
    if part not in IDENTITY:
        raise BadResult(f"{path}: there is no part {part!r}, only {', '.join(IDENTITY)}")
    try:
        result = results.load(path)
        named = result["part"], result["machine"]["device"]
        result["command"]  # noqa: B018  (KeyError where it is missing)
    except (ValueError, KeyError, TypeError) as error:
        raise BadResult(f"{path}: not a result of sgr-bench ({error!r})") from error
    if named != (part, device):
        raise BadResult(f"{path}: holds the part {named[0]!r} of the device {named[1]!r}")
    for number, row in enumerate(result["rows"], 1):
        _check(f"{path}: row {number}", part, row)
    seen = set()
    for row in result["rows"]:
        if identity(part, row) in seen:
            raise BadResult(f"{path}: two rows of one thing, {describe(part, row)}")
        seen.add(identity(part, row))
    return result


def _check(place: str, part: str, row: Row) -> None:
    missing = [name for name in _names(part, row) if name not in row]
    missing += [f"machine: {name}" for name in MACHINE if name not in row["machine"]]
    if missing:
        raise BadResult(f"{place} lacks {', '.join(missing)}")
    for name, allowed in VALUES.get(part, {}).items():
        if row[name] not in allowed:
            raise BadResult(f"{place}: the {name} is {row[name]!r}, expected one of {', '.join(allowed)}")
    for name in _POSITIVE:
        if name in FINDINGS[part] and not (_positive(row[name]) or (part, name, row[name]) == UNKNOWN):
            raise BadResult(f"{place}: {name} is {row[name]!r}, expected a number above 0")


def _names(part: str, row: Row) -> tuple[str, ...]:
    """What a row has to hold."""
    if part == "gradients" and row.get("engine") != "directional":
        return (*_AGREEMENT, *FINDINGS[part], "command")  # the only engine that has an order
    names = (*IDENTITY[part], *FINDINGS[part], "command")
    if part == "memory":
        names += ("over_bp", "paper_over_bp") if row.get("module") is None else ("over_plain",)
    if part == "roofline":
        names += ("gbps",) if row.get("limit") == "copy" else ("tflops",)
    return names


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
