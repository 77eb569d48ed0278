"""What has changed against an older set of results.

A time has changed where the medians differ by more than 5% and the intervals from the 20th to the 80th percentile do
not overlap; anything less is noise. Times of different machines are not compared. Memory is deterministic: more than
0.5% is a change on any machine. How well gradients agree is for the tests to judge, not for this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from . import stored
from .stored import Parts, Row
from .tables import markdown

TIME_THRESHOLD, MEMORY_THRESHOLD = 0.05, 0.005
LEAST_REPEATS = 3  # with fewer, the percentiles say nothing of the spread
SAME_MACHINE = ("device", "name", "threads", "torch")
REGRESSIONS = ("slower", "more memory")
IMPROVEMENTS = ("faster", "less memory")


class Change(NamedTuple):
    what: str
    quantity: str
    old: float
    new: float
    verdict: str

    @property
    def ratio(self) -> float:
        return self.new / self.old


class Comparison(NamedTuple):
    """Rows of both sets, the rows that only one of them has, and in what the machines differ."""

    changes: list[Change]
    added: list[str]
    vanished: list[str]
    machines: list[str]

    @property
    def regressions(self) -> list[Change]:
        return self.with_verdict(*REGRESSIONS)

    def with_verdict(self, *verdicts: str) -> list[Change]:
        return [change for change in self.changes if change.verdict in verdicts]


def compare(old: dict[str, Parts], new: dict[str, Parts]) -> Comparison:
    before, after = _rows(old), _rows(new)
    both = [(before[key], after[key]) for key in after if key in before]
    differences = [difference for (_, a), (_, b) in both for difference in machine_differences(a, b)]
    return Comparison(
        changes=[change for (what, a), (_, b) in both for change in _changes(what, a, b)],
        added=[what for key, (what, _) in after.items() if key not in before],
        vanished=[what for key, (what, _) in before.items() if key not in after],
        machines=list(dict.fromkeys(differences)),
    )


def time_verdict(old: Row, new: Row) -> str:
    if machine_differences(old, new):
        return "other machine"
    if min(old["repeats"], new["repeats"]) < LEAST_REPEATS:
        return "too few repeats"
    ratio = new["seconds"] / old["seconds"]
    if ratio > 1 + TIME_THRESHOLD and new["low"] > old["high"]:
        return "slower"
    if ratio < 1 / (1 + TIME_THRESHOLD) and new["high"] < old["low"]:
        return "faster"
    return "within noise"


def memory_verdict(old: Row, new: Row) -> str:
    ratio = new["peak_bytes"] / old["peak_bytes"]
    if ratio > 1 + MEMORY_THRESHOLD:
        return "more memory"
    return "less memory" if ratio < 1 - MEMORY_THRESHOLD else "same memory"


def machine_differences(old: Row, new: Row) -> list[str]:
    a, b = old["machine"], new["machine"]
    return [f"{name}: {a[name]} before, {b[name]} now" for name in SAME_MACHINE if a[name] != b[name]]


def text(comparison: Comparison) -> str:
    """The comparison in Markdown."""
    counts = {verdict: len(comparison.with_verdict(verdict)) for verdict in _verdicts(comparison)}
    parts = [", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "No row is in both sets."]
    parts.append(
        f"A time is slower or faster where the medians differ by more than {TIME_THRESHOLD:.0%} and the intervals from "
        f"the 20th to the 80th percentile do not overlap. Memory has no noise: {MEMORY_THRESHOLD:.1%} is a change."
    )
    if comparison.machines:
        parts.append("**The machines differ, so times are not compared:** " + "; ".join(comparison.machines) + ".")
    for title, verdicts in (("Regressions", REGRESSIONS), ("Improvements", IMPROVEMENTS)):
        changes = comparison.with_verdict(*verdicts)
        parts += [f"### {title}", _table(changes) if changes else "None."]
    for title, rows in (("New rows", comparison.added), ("Vanished rows", comparison.vanished)):
        parts += [f"### {title}", "\n".join(f"* {what}" for what in rows) or "None."]
    return "\n\n".join(parts)


def _rows(devices: dict[str, Parts]) -> dict[tuple[Any, ...], tuple[str, Row]]:
    return {
        (device, part, *stored.identity(part, row)): (f"{device}, {stored.describe(part, row)}", row)
        for device, parts in devices.items()
        for part, result in parts.items()
        for row in result["rows"]
    }


def _changes(what: str, old: Row, new: Row) -> Iterator[Change]:
    if "seconds" in new:
        yield Change(what, "time, ms", 1e3 * old["seconds"], 1e3 * new["seconds"], time_verdict(old, new))
    if new.get("peak_bytes") and old["peak_bytes"]:  # it is not always known
        sizes = (row["peak_bytes"] / 2**20 for row in (old, new))
        yield Change(what, "memory, MiB", *sizes, memory_verdict(old, new))


def _verdicts(comparison: Comparison) -> dict[str, None]:
    return dict.fromkeys(change.verdict for change in comparison.changes)


def _table(changes: list[Change]) -> str:
    rows = [
        [change.what, change.quantity, f"{change.old:.4g}", f"{change.new:.4g}", f"{change.ratio:.3f}", change.verdict]
        for change in changes
    ]
    return markdown([["row", "quantity", "before", "now", "ratio", "verdict"], *rows])
