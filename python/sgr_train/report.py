"""What people read: statistics and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

MIB = 2**20
BASELINE = "bp"  # what the costs of a step are shown over

Summary = dict[str, Any]  # of a run
Summaries = dict[str, list[Summary]]  # of the runs of every method, by seed


class Cost(NamedTuple):
    """Of a step: an entry of summaries, ``scale`` times which is in the ``unit``."""

    what: str
    entry: str
    unit: str
    scale: float


COSTS = (
    Cost("time", "seconds_per_step", "ms", 1e3),
    Cost("memory", "step_memory_bytes", "MiB", 1 / MIB),
)


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return sum(values) / len(values) if values else None


def std(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None below two values."""
    if len(values) < 2:
        return None
    centre = sum(values) / len(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))


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


def skipped(summary: dict[str, Any]) -> str:
    """What is said of steps that were not taken; "" where all were."""
    count = summary["skipped_steps"]
    return f", {count} step{'s' * (count > 1)} of modules skipped" if count else ""


def comparison_table(summaries: Summaries) -> str:
    """One row a method; mean +- standard deviation over seeds."""
    costs = [values_of(summaries, cost) for cost in COSTS]
    rows = [["method", "test acc. %", "val acc. %", "SGR loss", *(title for title, _ in costs)]]
    for method, runs in summaries.items():
        column = {name: [run[name] for run in runs if run[name] is not None] for name in runs[0]}
        rows.append(
            [
                method,
                spread(column["test_accuracy"], 100),
                spread(column["val_accuracy"], 100),
                spread(column["sgr"], digits=4),
                *(_varied(values[method]) for _, values in costs),
            ]
        )
    return table(rows)


def values_of(summaries: Summaries, cost: Cost) -> tuple[str, dict[str, list[float]]]:
    """The title of a column, and its values by method: over those of BP, or where it has none, in the unit."""
    ratios = relative(summaries, cost.entry)
    if ratios:
        return f"{cost.what} a step / {BASELINE}", ratios
    found = {
        name: [cost.scale * run[cost.entry] for run in runs if run[cost.entry]] for name, runs in summaries.items()
    }
    return f"{cost.what} a step, {cost.unit}", found


def relative(summaries: Summaries, entry: str) -> dict[str, list[float]]:
    """An entry of every run over that of the run of BP with the same seed, by method; {} if BP has none.

    Runs of which one of the two lacks it are left out.
    """
    of_baseline = {run["seed"]: run[entry] for run in summaries.get(BASELINE, ()) if run[entry]}
    if not of_baseline:
        return {}
    return {
        method: [run[entry] / of_baseline[run["seed"]] for run in runs if run["seed"] in of_baseline and run[entry]]
        for method, runs in summaries.items()
    }


def _varied(values: Sequence[float]) -> str:
    """As :func:`spread`, without the deviation of what is the same for all seeds."""
    return spread(values[:1] if len(set(values)) == 1 else values)


def choice_table(accuracies: dict[Any, list[float]], losses: dict[Any, list[float]]) -> str:
    """One row a candidate; mean +- standard deviation over seeds."""
    rows = [["candidate", "val acc. %", "SGR loss"]]
    rows += [[str(each), spread(accuracies[each], 100), spread(losses[each], digits=4)] for each in accuracies]
    return table(rows)


def paired(summaries: Summaries, one: str = "sgr", other: str = "layerwise") -> dict[str, Any] | None:
    """A method against another, seed by seed: accuracy difference, its standard error, and seeds with a lower SGR loss.

    Seeds of which one of the two has no run are left out. A network of one module, as of BP, has no SGR loss.
    """
    pairs = pairs_of(summaries, one, other)
    if not pairs:
        return None
    differences = [first["test_accuracy"] - second["test_accuracy"] for first, second in pairs]
    deviation = std(differences)
    return {
        "seeds": len(pairs),
        "accuracy_difference": mean(differences),
        "standard_error": None if deviation is None else deviation / math.sqrt(len(pairs)),
        "sgr_lower_on": sum(a["sgr"] < b["sgr"] for a, b in pairs if None not in (a["sgr"], b["sgr"])),
    }


def pairs_of(summaries: Summaries, one: str, other: str) -> list[tuple[Summary, Summary]]:
    """Runs of two methods with the same seed, in the order of the first."""
    theirs = {run["seed"]: run for run in summaries.get(other, ())}
    return [(run, theirs[run["seed"]]) for run in summaries.get(one, ()) if run["seed"] in theirs]
