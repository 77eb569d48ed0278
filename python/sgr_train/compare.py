"""Several runs and what they say together: methods against each other, and the choice of lambda."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import checkpoint, derived, plots, report
from .build import make_method, own_options
from .config import ChooseConfig, CompareConfig, RunConfig, Settings, run_of
from .errors import NoOutput, NotWritten, UsageError, one_line, say
from .files import write_json
from .findings import findings, next_steps
from .folder import locked, make_folder
from .hooks import make_loggers
from .loader import Facts
from .measure import reduction_of
from .progress import heading
from .step_costs import with_step_costs
from .train import setup, train, train_and_test

Runs = dict[str, RunConfig]  # by what they are called
Failed = dict[str, UsageError]  # why, by the names of the runs
Row = dict[str, Any]


def compare(config: CompareConfig) -> None:
    """Run every method with every seed, those that are finished already excepted; print and write the result.

    The result is a table, a picture, and in words what was seen and what to try next.

    Raises:
        UsageError: runs failed; the result is that of the others.
    """
    runs = {
        f"{method} seed {seed}": run_of(config, _folder(config, method, seed), method, seed)
        for seed in config.seeds
        for method in config.methods
    }
    run_id, facts = _begin(config, runs)
    results, failed = _each(runs, _test)
    summaries: report.Summaries = {}
    for method in config.methods:
        finished = {name: result for name, result in results.items() if runs[name].method == method}
        if finished:
            summaries[method] = with_step_costs(runs[next(iter(finished))], list(finished.values()), facts)
    if summaries:
        say("\n" + report.comparison_table(summaries))
        if failed:
            say(f"without {', '.join(failed)}, which failed")
        for text in findings(summaries), next_steps(summaries, config.data):
            if text:
                say(text)
        summary = {"runs": summaries, "sgr_minus_layerwise": report.paired(summaries), "failed": list(failed)}
        write_json(config.out / checkpoint.SUMMARY, summary, run_id)
        derived.draw(config.out / "comparison.png", run_id, lambda: _plot(config, summaries))
    _refuse(failed, runs)


def choose(config: ChooseConfig) -> None:
    """Mean validation accuracy for every candidate; the best one, the first of equals. Tests nothing.

    Raises:
        UsageError: runs failed; a candidate with such a run is none.
    """
    runs = {}
    for candidate in (LAYERWISE, *candidates_of(config)):
        method, own = ("layerwise", {}) if candidate == LAYERWISE else ("sgr", dict([candidate]))
        for seed in config.seeds:
            out = config.out / f"{candidate.flag}{candidate.value:g}-seed{seed}"
            runs[f"{candidate} seed {seed}"] = run_of(config, out, method, seed, **own)
    run_id, _ = _begin(config, runs)
    results, failed = _each(runs, _validate)
    last: dict[Candidate, list[Row]] = {candidate_of(run): [] for run in runs.values()}
    for name, run in runs.items():
        if name in failed:
            last.pop(candidate_of(run), None)
        elif candidate_of(run) in last:
            last[candidate_of(run)].append(results[name])
    accuracies = {candidate: [row["val_accuracy"][-1] for row in rows] for candidate, rows in last.items()}
    losses = {candidate: [report.mean(row["sgr"]) for row in rows] for candidate, rows in last.items()}
    candidates = [candidate for candidate in last if candidate != LAYERWISE]
    if candidates:
        best = max(candidates, key=lambda candidate: report.mean(accuracies[candidate]))
        reduction = reduction_of(config)
        say("\n" + report.choice_table(accuracies, losses))
        if failed:
            say(f"without those of {', '.join(failed)}, which failed")
        goes_with = f" --reduction {reduction}" if best.flag == "weight" else ""
        say(f"chosen on the validation images: --{best.flag} {best.value:g}{goes_with}")
        rows = [{each.flag: each.value, "val_accuracy": accuracies[each], "sgr": losses[each]} for each in last]
        choice = {best.flag: best.value, "reduction": reduction, "candidates": rows, "failed": list(failed)}
        write_json(config.out / checkpoint.SUMMARY, choice, run_id)
    _refuse(failed, runs)


class Candidate(NamedTuple):
    """A value of one of the flags of sgr that say how strong the SGR loss is."""

    flag: str
    value: float

    def __str__(self) -> str:
        return f"{'lambda' if self.flag == 'weight' else self.flag} {self.value:g}"


LAYERWISE = Candidate("weight", 0.0)
USUAL = (0.03, 0.1, 0.3)  # values of rho


def candidates_of(config: ChooseConfig) -> list[Candidate]:
    rhos = config.rhos or (() if config.weights else USUAL)
    found = {"rho": rhos, "weight": config.weights}
    return [Candidate(flag, value) for flag, values in found.items() for value in sorted(values)]


def candidate_of(run: RunConfig) -> Candidate:
    """What it was made for."""
    options = own_options(run)
    if options.get("weight") is not None:
        return Candidate("weight", options["weight"])
    return Candidate("rho", options["rho"]) if "rho" in options else LAYERWISE


def _begin(config: Settings, runs: Runs) -> tuple[str, Facts]:
    """Find out about bad input before anything is written, then begin the runs, or see that those begun are these.

    Returns the id of the command's own folder, and what is known of the data.
    """
    first = next(iter(runs.values()))
    _, data = setup(first, checkpoint.found_cuts(first))
    make_loggers(config)
    for run in runs.values():
        make_method(run)
    run_id = checkpoint.enter(config, data.fingerprint, data.mean.device)
    for run in runs.values():
        make_folder(run.out)
        checkpoint.enter(run, data.fingerprint, data.mean.device)
    say(heading(config, data))
    return run_id, Facts(len(data.train), data.num_classes, data.image_shape)


def _each(runs: Runs, action: Callable[[RunConfig, str], tuple[Row, str]]) -> tuple[dict[str, Row], Failed]:
    """Results of the runs that ended well, and what went wrong in the others, by their names."""
    results, failed = {}, {}
    for number, (name, run) in enumerate(runs.items(), 1):
        label = f"[{number}/{len(runs)}] {name}"
        try:
            with locked(run.out):
                results[name], said = action(run, label)
        except UsageError as error:
            failed[name] = said = error
        except NoOutput:
            raise
        except Exception as error:  # of a method or a network of the user's own, for instance
            traceback.print_exc()
            failed[name] = said = UsageError(f"{type(error).__name__}: {one_line(error)}")
        say(f"{label}: {said}")
    return results, failed


def _test(run: RunConfig, label: str) -> tuple[Row, str]:
    summary = train_and_test(run, label)
    stopped = f", stopped after epoch {summary['epochs']}" if summary["stopped_early"] else ""
    return summary, f"test accuracy {summary['test_accuracy']:.2%}{stopped}{report.skipped(summary)}"


def _validate(run: RunConfig, label: str) -> tuple[Row, str]:
    row = train(run, label)[0].history[-1]
    return row, f"validation accuracy {row['val_accuracy'][-1]:.2%}"


def _refuse(failed: Failed, runs: Runs) -> None:
    """End in an error that names the runs whose results are missing."""
    if failed:
        name, first = next(iter(failed.items()))
        others = f"{len(failed)} of {len(runs)} runs failed and are left out: {', '.join(failed)}"
        not_written = any(isinstance(error, NotWritten) for error in failed.values())
        raise (NotWritten if not_written else UsageError)(f"{others} ({name}: {first})")


def _plot(config: CompareConfig, summaries: report.Summaries) -> bytes:
    histories = {
        method: [derived.read_metrics(_folder(config, method, run["seed"]), run["epochs"]) for run in finished]
        for method, finished in summaries.items()
    }
    title = f"{Path(config.data).name}, {config.model}, {config.head} heads"
    return plots.of_comparison(summaries, histories, reduction_of(config), title)


def _folder(config: CompareConfig, method: str, seed: int) -> Path:
    return config.out / f"{method}-seed{seed}"
