"""results.md and its pictures, from the files STUDY.json and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from sgr_train.errors import UsageError

from .. import style
from ..tables import markdown
from . import figures, store, studies, tables
from .studies import Study
from .tables import Results

PAGE, PICTURES = "results.md", "results"
INTRODUCTION = """# Results of training

What the paper shows, trained here: as far as the rows say, and no further. `python -m sgr_bench.training page` makes
this page from bench/results/training/*.json, which `python -m sgr_bench.training run STUDY` writes; nothing is written
by hand. Accuracies are means and standard deviations over the seeds. "points over" is the difference to the row that is
named, seed by seed, with its standard error (s.e.). The last column has the settings that are others than those of the
recipe for the paper's row, which stand in parentheses: a row that is shorter or smaller than the paper's says so there,
and its accuracy is not to be held against the paper's. Hours are those of the clock, beside whatever else the machine
had to do. The commands are for a checkout, and train on CIFAR-10 where it is in the folder data (`data_dir=DIR`,
`download=true`); other seeds differ in `seed`."""


class Picture(NamedTuple):
    draw: Callable[[Study, Results], Figure | None]
    caption: str
    table: Callable[[Study, Results], str] | None = None


DRAWN = {
    "reconciliation": Picture(
        figures.reconciliation,
        "SGR loss between neighbours (left) and accuracy (right), measured after every epoch: mean over the seeds, in "
        "a band from the lowest to the highest (Figure 2 of the paper, which has the test accuracy).",
        tables.below,
    ),
    "input_change": Picture(
        figures.input_change,
        "Change of the loss of a module, with its weights before the step, as its input comes from the modules before "
        "it after their step, and no longer before it: four steps of every epoch, on the same 256 training images; "
        "mean over the seeds, in a band from the lowest to the highest (Figure 3). The scale is logarithmic but for "
        "small changes; below 0 the step of the modules before has helped.",
        tables.input_changes,
    ),
    "depth": Picture(
        figures.by_depth,
        "Loss of the last head and accuracy after the last epoch, by depth; each with the learning rate that is best "
        "on the validation images (Table 7).",
        tables.best_of_depths,
    ),
}


def write(results: Path, out: Path) -> Path:
    """The page in the folder ``out``, with its pictures in a folder beside it.

    Raises:
        UsageError: a file is no result, or rows are not of one kind.
    """
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    unknown = sorted({path.stem for path in results.glob("*.json")} - set(studies.names()))
    if unknown:
        raise UsageError(f"{results / unknown[0]}.json is of no study; there are {', '.join(studies.names())}")
    parts = [INTRODUCTION]
    for name in sorted(studies.names(), key=lambda name: studies.find(name).title):
        parts += _section(name, studies.find(name), store.load(store.path_of(results, name))["runs"], out)
    (out / PAGE).write_text("\n\n".join(parts) + "\n")
    return out / PAGE


def _section(name: str, study: Study, runs: list[tables.Result], out: Path) -> list[str]:
    if not runs:
        return (
            [f"## {study.title}", study.text, f"**Missing:** the study {name} has not been run."] if study.shown else []
        )
    _require_whole(name, study, runs)
    found = tables.by_row(study, runs)
    _require_one_kind(name, found)
    part = [f"## {study.title}", study.text]
    if missing := [row.name for row in study.rows if row.name not in {run["row"] for run in runs}]:
        part.append(f"**Missing:** {'; '.join(missing)}.")
    if failures := [f"* {run['row']} seed {run['seed']}: {run['failure']}" for run in runs if "failure" in run]:
        part += ["**Failed:**", "\n".join(failures)]
    if not found:
        return part
    part.append(markdown(tables.results(study, found)))
    if study.quantity == "val_accuracy":
        part.append(tables.best(study, found))
    elif words := tables.in_words(study, found):
        part.append(words)
    for picture in study.pictures:
        part += _picture(f"{name}-{picture}.png", DRAWN[picture], study, found, out)
    return [*part, tables.commands(found), tables.origins(found)]


def _picture(file: str, picture: Picture, study: Study, found: Results, out: Path) -> list[str]:
    figure = picture.draw(study, found)
    if figure is None:
        return []
    style.save(figure, out / PICTURES / file)
    text = picture.table(study, found) if picture.table else ""
    return [f"![{picture.caption.partition(':')[0]}]({PICTURES}/{file})", picture.caption, *([text] if text else [])]


def _require_whole(name: str, study: Study, runs: list[tables.Result]) -> None:
    for run in runs:
        if lacking := store.lacking(run, study.quantity):
            where = f"{name}.json: row {run['row']} seed {run['seed']}"
            raise UsageError(f"{where} lacks {', '.join(lacking)}; run it again")


def _require_one_kind(name: str, found: Results) -> None:
    for row, runs in found.items():
        if len({tuple(run["changes"]) for run in runs}) > 1:
            raise UsageError(f"{name}.json: the seeds of row {row} differ in more than their seed; run it again")
