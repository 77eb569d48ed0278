"""Tables of the page: text, each number of a stored result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgr_train import findings, recipes
from sgr_train.report import mean, paired, spread

from ..tables import markdown
from .runs import differences
from .studies import Row, Study

Result = dict[str, Any]
Results = dict[str, list[Result]]  # of a study, those that did not fail, by the names of their rows
NAMES = {"train_subset": "training images"}  # what settings are called here, if not as they are
ALL = {"train_subset": "all"}  # what None means
NO_NUMBER, OTHERWISE = "-", "settings here (in the recipe), where others"


def by_row(study: Study, runs: Sequence[Result]) -> Results:
    """In the order of the study, rows that it does not have any more behind the others."""
    names = dict.fromkeys([*(row.name for row in study.rows), *(run["row"] for run in runs)])
    found = {name: [run for run in runs if run["row"] == name and "failure" not in run] for name in names}
    return {name: results for name, results in found.items() if results}


def results(study: Study, found: Results) -> list[list[str]]:
    """The header, and a line a row of the study: ours beside the paper's, and what was made smaller than there."""
    searched = study.quantity == "val_accuracy"
    rows = [
        [
            "row",
            *([] if searched else ["paper: test acc. %"]),
            f"here: {'val.' if searched else 'test'} acc. %",
            "seeds",
            "points over",
            "train acc. %",
            "SGR loss",
            "hours a run",
            OTHERWISE,
        ]
    ]
    known = {row.name: row for row in study.rows}
    for name, runs in found.items():
        row = known.get(name)
        rows.append(
            [
                name,
                *([] if searched else [paper_of(row, runs[0])]),
                spread([run[study.quantity] for run in runs], 100),
                seeds_of(study, runs),
                difference(study, found, row),
                spread([run["train_accuracy"] for run in runs], 100, 1),
                spread([run["sgr"] for run in runs if run["sgr"] is not None], digits=3),
                f"{mean([run['seconds'] for run in runs]) / 3600:.2g}",
                smaller(runs[0]),
            ]
        )
    return rows


def paper_of(row: Row | None, run: Result) -> str:
    """Its number, and where it stands; of another method than that of the recipe it has none."""
    if row is not None and row.paper is not None:
        return row.paper
    recipe = recipes.find(run["recipe"])
    return recipe.paper if recipe.settings["method"] == run["method"] else NO_NUMBER


def seeds_of(study: Study, runs: Sequence[Result]) -> str:
    seeds = " ".join(str(run["seed"]) for run in runs)
    missing = [str(seed) for seed in study.seeds if seed not in {run["seed"] for run in runs}]
    return f"{seeds}, without {' '.join(missing)}" if missing else seeds


def difference(study: Study, found: Results, row: Row | None) -> str:
    """To the row it is compared with, seed by seed, with the standard error of the mean."""
    if row is None or row.against not in found:
        return "-"
    result = paired_of(study, found, row)
    if result is None:
        return "-"
    error = result["standard_error"]
    uncertain = "" if error is None else f" (s.e. {100 * error:.2f})"
    return f"{row.against}: {100 * result['accuracy_difference']:+.2f}{uncertain}"


def paired_of(study: Study, found: Results, row: Row) -> dict[str, Any] | None:
    """As :func:`sgr_train.report.paired`, of what the study measures."""
    sides = {"sgr": found[row.name], "layerwise": found[row.against]}
    same = {name: [{**run, "test_accuracy": run[study.quantity]} for run in runs] for name, runs in sides.items()}
    return paired(same)


def in_words(study: Study, found: Results) -> str:
    """What the rows say about those that they are compared with, where more than one seed does."""
    said = []
    for row in study.rows:
        result = paired_of(study, found, row) if {row.name, row.against} <= found.keys() else None
        if result is not None and result["seeds"] > 1:
            said.append(f"* {findings.accuracy(row.name, row.against, result)}")
    return "\n".join(said)


def smaller(run: Result) -> str:
    """Where the settings of a run are others than the paper's."""
    given = {change.partition("=")[0] for change in run["changes"]}
    found = differences(run["recipe"], run["changes"], run.get("plugin"))
    return ", ".join(
        f"{NAMES.get(name, name)} {_shown(name, here)} ({_shown(name, paper)})"
        for name, (here, paper) in found.items()
        # Options that come and go with a network or a method go without saying.
        if name in given or None not in (here, paper)
    )


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ALL.get(name, "none")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def best(study: Study, found: Results) -> str:
    """Of a search."""
    name = max(found, key=lambda name: mean([run[study.quantity] for run in found[name]]))
    return f"Best of these: {name}."


def origins(found: Results) -> str:
    """Where the numbers come from, and what was trained on and tested with."""
    lines = []
    for name, runs in found.items():
        for run in runs:
            images = " / ".join(f"{run['images'][split]:,}" for split in ("train", "val", "test"))
            for each in run["environments"]:
                facts = [each[key] or "-" for key in ("device", "threads", "torch", "revision")]
                facts[3] = facts[3][:12]
                lines.append((name, run["date"], images, f"{run['parameters']:,}", *map(str, facts)))
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in dict.fromkeys(lines):
        grouped.setdefault(tuple(rest), []).append(name)
    if len(grouped) == 1:
        grouped = {rest: ["all"] for rest in grouped}
    header = ["rows", "date", "images train / val. / test", "parameters", "device", "threads", "torch", "revision"]
    return markdown([header, *(["; ".join(names), *rest] for rest, names in grouped.items())])


def commands(found: Results) -> str:
    """What was typed for the first seed of every row; the others differ in their seed alone."""
    return "```sh\n" + "\n".join(runs[0]["command"] for runs in found.values()) + "\n```"


def below(study: Study, found: Results) -> str:
    """In which epochs and seeds the SGR loss of a row was not below that of the row it is compared with."""
    said = []
    for row in study.rows:
        if not {row.name, row.against} <= found.keys():
            continue
        other = {run["seed"]: run["history"]["sgr"] for run in found[row.against]}
        pairs = {
            run["seed"]: (run["history"]["sgr"], other[run["seed"]]) for run in found[row.name] if run["seed"] in other
        }
        exceptions = {
            seed: [epoch for epoch, (ours, its) in enumerate(zip(*both, strict=False), 1) if ours >= its]
            for seed, both in pairs.items()
        }
        what = f"The SGR loss of {row.name} was below that of {row.against}"
        where = [f"seed {seed} in {ranges(epochs)}" for seed, epochs in exceptions.items() if epochs]
        seeds = f"(seeds {' '.join(map(str, pairs))})"
        if where:
            said.append(f"* {what} in every epoch but for {'; '.join(where)} {seeds}.")
        elif pairs:
            said.append(f"* {what} in every epoch {seeds}.")
    return "\n".join(said)


def best_of_depths(study: Study, found: Results) -> str:
    """The rows that the picture by depth is drawn of."""
    names = [name for name, _ in best_by_depth(found).values()]
    return f"Drawn: {', '.join(names)}."


def best_by_depth(found: Results) -> dict[tuple[str, int], tuple[str, list[Result]]]:
    """Name and runs of the row with the best mean validation accuracy, by method and depth."""
    best: dict[tuple[str, int], tuple[str, list[Result]]] = {}
    for name, runs in found.items():
        key = runs[0]["method"], int(_change(runs[0], "depth"))
        if key not in best or _validated(runs) > _validated(best[key][1]):
            best[key] = name, runs
    return best


def _validated(runs: Sequence[Result]) -> float:
    return mean([run["val_accuracy"] for run in runs])


def _change(run: Result, key: str) -> str:
    return dict(change.split("=", 1) for change in run["changes"])[key]


def ranges(epochs: Sequence[int]) -> str:
    """[1, 2, 3, 7] -> "epochs 1-3, 7"."""
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][1] + 1:
            runs[-1][1] = epoch
        else:
            runs.append([epoch, epoch])
    text = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f"epoch{'s' if len(epochs) > 1 else ''} {text}"


def input_changes(study: Study, found: Results) -> str:
    """A row of Figure 3 a row: the mean change over epochs and seeds, and in how many of the epochs it was below 0."""
    drawn = {name: changes for name in study.drawn if name in found and (changes := _changes(found[name]))}
    if not drawn:
        return ""
    modules = range(2, 2 + len(next(iter(drawn.values()))))
    rows = [
        ["row", *(f"module {k}: mean change, nats" for k in modules), *(f"module {k}: below 0 in" for k in modules)]
    ]
    for name, changes in drawn.items():
        means = [f"{mean(values):+.2e}" for values in changes]
        shares = [f"{100 * mean([value < 0 for value in values]):.0f}% of epochs" for values in changes]
        rows.append([name, *means, *shares])
    return markdown(rows)


def _changes(runs: Sequence[Result]) -> list[list[float]]:
    """Of every module from the second on, those of all epochs and seeds."""
    rows = [row for run in runs for row in run["history"].get("input_change", ()) if row is not None]
    return [[value for value in column if value is not None] for column in zip(*rows, strict=True)] if rows else []
