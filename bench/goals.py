"""What a GPU is to show, and what it has shown: the goals of this project against the results in a folder.

``python -m sgr_bench.goals DIR`` prints what was wrong or not to be had, the whole steps, and every goal with what was
measured of it, or why nothing was. It needs nothing but the files that ``sgr-bench micro`` and ``step`` write, also
those of runs that were cut short. The kernels are judged as users have them, with no backend asked for.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
Results = dict[str, dict[str, list[Row]]]  # part -> "rows" and "failures"

FAILURES, WIDTH = 15, 160  # so many lines of failures are printed, so long
OURS = "default"


class NotMeasured(Exception):
    """Why there is no number."""


class Operation(NamedTuple):
    op: str
    mode: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {'x'.join(map(str, self.shape))} {self.dtype}"


class Goal(NamedTuple):
    """``value`` of the results must be at most or at least the limit; it raises NotMeasured."""

    what: str
    at_most: bool
    limit: float
    unit: str
    value: Callable[[Results], float]


RESIDUAL = Operation("sgr_residual", "full", (256, 200704), "float32")
LARGE_RESIDUAL = RESIDUAL._replace(shape=(256, 802816))
SMALL_RESIDUAL = RESIDUAL._replace(shape=(128, 4096))
LOSS = Operation("sgr_loss", "full", (256, 200704), "float32")
LOSS_FORWARD, LOSS_BACKWARD = LOSS._replace(mode="forward"), LOSS._replace(mode="backward")
BLOCK = Operation("linear_relu_step", "none", (4096, 4096, 4096), "bfloat16")
RESNET50 = {"network": "resnet50", "count": 3, "batch": 256, "precision": "bfloat16", "module": None}
RESNET32 = {"network": "resnet32", "count": 16, "batch": 128, "precision": "float32", "module": None}


def row(results: Results, part: str, **wanted: Any) -> Row:
    """The row that has these values.

    Raises:
        NotMeasured: there is none.
    """
    if part not in results:
        raise NotMeasured(f"no results of {part}")

    def fits(each: Row) -> bool:
        return all(each.get(name) == value for name, value in wanted.items())

    for each in results[part]["rows"]:
        if fits(each):
            return each
    for each in results[part]["failures"]:
        if fits(each):
            raise NotMeasured(each["failure"])
    raise NotMeasured(f"no row of {', '.join(str(value) for value in wanted.values() if value is not None)}")


def kernel(results: Results, operation: Operation, provider: str = OURS) -> Row:
    return row(results, "micro", **{**operation._asdict(), "shape": list(operation.shape)}, provider=provider)


def fraction(operation: Operation, limit: float) -> Goal:
    """Of copy bandwidth."""

    def value(results: Results) -> float:
        found = kernel(results, operation)
        if found["timed"] != "graph":
            raise NotMeasured(f"no graph holds it: {found['fraction']:.2f} with its launches")
        return found["fraction"]

    return Goal(f"{operation}, of copy bandwidth", False, limit, "", value)


def speed_up(operation: Operation, other: str, limit: float) -> Goal:
    def value(results: Results) -> float:
        return kernel(results, operation, other)["seconds"] / kernel(results, operation)["seconds"]

    return Goal(f"{operation}, {other} over it", False, limit, "x", value)


def time_over(operation: Operation, other: str, limit: float) -> Goal:
    def value(results: Results) -> float:
        return kernel(results, operation)["seconds"] / kernel(results, operation, other)["seconds"]

    return Goal(f"{operation}, over {other}", True, limit, "x", value)


def over_bp(case: Row, method: str, limit: float, key: str = "seconds", bp: str = "BP") -> Goal:
    def value(results: Results) -> float:
        return row(results, "step", **case, method=method)[key] / row(results, "step", **case, method=bp)[key]

    what = {"seconds": "time", "peak_bytes": "memory"}[key]
    name = f"{case['network']} K={case['count']} batch {case['batch']} {case['precision']}"
    return Goal(f"{name}: {what} of {method} over {bp}", True, limit, "x", value)


def microseconds(results: Results) -> float:
    return 1e6 * kernel(results, SMALL_RESIDUAL)["seconds"]


GOALS = (
    fraction(RESIDUAL, 0.85),
    fraction(LARGE_RESIDUAL, 0.75),
    Goal(f"{SMALL_RESIDUAL}", True, 8.0, " us", microseconds),
    time_over(SMALL_RESIDUAL, "torch.compile", 1.0),
    fraction(LOSS_FORWARD, 0.90),
    fraction(LOSS_BACKWARD, 0.90),
    speed_up(LOSS, "eager", 8.0),
    speed_up(LOSS, "torch.compile", 1.6),
    time_over(BLOCK, "library GEMM", 1.15),
    speed_up(BLOCK, "Algorithm 1", 2.0),
    over_bp(RESNET50, "directional", 2.1),
    over_bp(RESNET50, "directional", 0.50, "peak_bytes"),
    over_bp(RESNET50, "directional, every 4th", 1.35),
    over_bp(RESNET32, "directional, overlapping, captured", 2.5, bp="BP, captured"),
)
# What the part "micro" measures first on a GPU, where time may be up before it ends.
FIRST = (RESIDUAL, SMALL_RESIDUAL, LARGE_RESIDUAL, BLOCK, LOSS)


def read(folder: pathlib.Path, device: str) -> Results:
    """Whatever results there are."""
    found = {}
    for path in sorted(folder.glob(f"*-{device}.json")):
        result = json.loads(path.read_text())
        found[path.name.removesuffix(f"-{device}.json")] = {
            "rows": result["rows"],
            "failures": result.get("failures", []),
        }
    return found


def judged(goal: Goal, results: Results) -> str:
    """One line: the goal, what is wanted, what was measured, and whether that is enough."""
    wanted = f"{'<=' if goal.at_most else '>='} {goal.limit:g}{goal.unit}"
    try:
        value = goal.value(results)
    except NotMeasured as why:
        return f"{goal.what}: {wanted}: not measured: {why}"[:WIDTH]
    met = value <= goal.limit if goal.at_most else value >= goal.limit
    return f"{goal.what}: {wanted}: {value:.3g}{goal.unit}: {'met' if met else 'MISSED'}"


def whole_steps(results: Results) -> list[str]:
    """A line for each network, number of modules and precision: time and memory of the methods over those of BP."""
    rows = [each for each in results.get("step", {"rows": []})["rows"] if each["module"] is None]
    lines = []
    for case in dict.fromkeys(_case(each) for each in rows):
        same = {each["method"]: each for each in rows if _case(each) == case}
        lines.append(f"{case}: {'; '.join(_over(same, method) for method in same)}")
    return lines


def _case(each: Row) -> str:
    return f"{each['network']} K={each['count']} batch {each['batch']} {each['precision']}"


def _over(same: dict[str, Row], method: str) -> str:
    """Time and memory of a method, over those of BP where that was measured."""
    each, bp = same[method], same.get("BP")
    words = [f"{1e3 * each['seconds']:.1f} ms"]
    if bp and method != "BP":
        words.append(f"{each['seconds'] / bp['seconds']:.2f}x")
    if each["peak_bytes"] and bp and method != "BP":
        words.append(f"{each['peak_bytes'] / bp['peak_bytes']:.2f}x")
    elif each["peak_bytes"]:
        words.append(f"{each['peak_bytes'] / 2**20:.0f} MiB")
    return f"{method} {', '.join(words)}"


def summary(results: Results) -> str:
    failures = [f"{part}: {each['failure']}"[:WIDTH] for part in results for each in results[part]["failures"]]
    lines = [f"wrong, or failed: {len(failures)}", *failures[:FAILURES]]
    if len(failures) > FAILURES:
        lines.append(f"... and {len(failures) - FAILURES} more, in the files PART-DEVICE.json")
    lines += ["whole steps, time and memory over BP:", *whole_steps(results)]
    return "\n".join([*lines, "goals:", *(judged(goal, results) for goal in GOALS)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sgr_bench.goals", description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="where the files PART-DEVICE.json are")
    parser.add_argument("--device", default="cuda", help="(default cuda)")
    args = parser.parse_args(argv)
    print(summary(read(args.folder, args.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
