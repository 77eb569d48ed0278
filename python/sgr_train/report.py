"""What people read: statistics and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


def choice_table(accuracies: dict[Any, list[float]], losses: dict[Any, list[float]]) -> str:
    """One row a candidate; mean +- standard deviation over seeds."""
    rows = [["candidate", "val acc. %", "SGR loss"]]
    rows += [[str(each), spread(accuracies[each], 100), spread(losses[each], digits=4)] for each in accuracies]
    return table(rows)


def paired(summaries: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """SGR against layerwise, seed by seed: accuracy difference, its standard error, and seeds with a lower SGR loss.

    Seeds of which one of the two has no run are left out. A network of one module has no SGR loss.
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
        "sgr_lower_on": sum(one["sgr"] is not None and one["sgr"] < other["sgr"] for one, other in pairs),
    }


def paired_text(result: dict[str, Any]) -> str:
    error = result["standard_error"]
    error_text = "one seed, no standard error" if error is None else f"paired standard error {100 * error:.2f}"
    return (
        f"SGR - layerwise, test accuracy: {100 * result['accuracy_difference']:+.2f} points ({error_text})\n"
        f"SGR loss lower with SGR on {result['sgr_lower_on']} of {result['seeds']} seeds"
    )
