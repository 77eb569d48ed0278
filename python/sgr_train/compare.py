"""Several runs and what they say together: methods against each other, and the choice of lambda."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import checkpoint, derived, plots, report
from .build import make_method, own_options
from .config import ChooseConfig, CompareConfig, RunConfig, Settings, run_of
from .errors import NoOutput, NotWritten, UsageError, one_line, say
from .files import write_json
from .folder import locked, make_folder
from .hooks import make_loggers
from .measure import reduction_of
from .progress import heading
from .train import setup, train, train_and_test

Runs = dict[str, RunConfig]  # by what they are called
Failed = dict[str, UsageError]  # why, by the names of the runs
Row = dict[str, Any]


def compare(config: CompareConfig) -> None:
    """Run every method with every seed, those that are finished already excepted; print and write the result.

    Raises:
        UsageError: runs failed; the result is that of the others.
    """
    runs = {
        f"{method} seed {seed}": run_of(config, config.out / f"{method}-seed{seed}", method, seed)
        for seed in config.seeds
        for method in config.methods
    }
    run_id = _begin(config, runs)
    results, failed = _each(runs, _test)
    summaries = {}
    for method in config.methods:
        finished = [result for name, result in results.items() if runs[name].method == method]
        if finished:
            summaries[method] = finished
    if summaries:
        result = report.paired(summaries)
        say("\n" + report.comparison_table(summaries))
        if failed:
            say(f"without {', '.join(failed)}, which failed")
        if result is not None:
            say(report.paired_text(result))
        summary = {"runs": summaries, "sgr_minus_layerwise": result, "failed": list(failed)}
        write_json(config.out / checkpoint.SUMMARY, summary, run_id)
        derived.draw(config.out / "comparison.png", run_id, lambda: _plot(config, runs, results))
    _refuse(failed, runs)


def choose(config: ChooseConfig) -> None:
    """Mean validation accuracy for every weight; the best one, the smallest of equals. Tests nothing.

    Raises:
        UsageError: runs failed; a weight with such a run is no candidate.
    """
    runs = {}
    for weight in (0.0, *sorted(config.weights)):
        method, own = ("sgr", {"weight": weight}) if weight else ("layerwise", {})
        for seed in config.seeds:
            out = config.out / f"weight{weight:g}-seed{seed}"
            runs[f"lambda {weight:g} seed {seed}"] = run_of(config, out, method, seed, **own)
    run_id = _begin(config, runs)
    results, failed = _each(runs, _validate)
    last: dict[float, list[Row]] = {weight_of(run): [] for run in runs.values()}
    for name, run in runs.items():
        if name in failed:
            last.pop(weight_of(run), None)
        elif weight_of(run) in last:
            last[weight_of(run)].append(results[name])
    accuracies = {weight: [row["val_accuracy"][-1] for row in rows] for weight, rows in last.items()}
    losses = {weight: [report.mean(row["sgr"]) for row in rows] for weight, rows in last.items()}
    candidates = [weight for weight in sorted(config.weights) if weight in last]
    if candidates:
        best = max(candidates, key=lambda weight: report.mean(accuracies[weight]))
        say("\n" + report.choice_table(accuracies, losses))
        if failed:
            say(f"without the weights of {', '.join(failed)}, which failed")
        say(f"chosen on the validation images: --weight {best:g} --reduction {reduction_of(config)}")
        rows = [{"weight": weight, "val_accuracy": accuracies[weight], "sgr": losses[weight]} for weight in last]
        choice = {"weight": best, "reduction": reduction_of(config), "candidates": rows, "failed": list(failed)}
        write_json(config.out / checkpoint.SUMMARY, choice, run_id)
    _refuse(failed, runs)


def weight_of(run: RunConfig) -> float:
    """lambda; 0 of a method without."""
    return own_options(run).get("weight", 0.0)


def _begin(config: Settings, runs: Runs) -> str:
    """Find out about bad input before anything is written, then begin the runs, or see that those begun are these.

    Returns the id of the command's own folder.
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
    return run_id


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


def _plot(config: CompareConfig, runs: Runs, results: dict[str, Row]) -> bytes:
    histories: dict[str, list[list[Row]]] = {}
    for name, summary in results.items():
        rows = derived.read_metrics(runs[name].out, summary["epochs"])
        histories.setdefault(summary["method"], []).append(rows)
    title = f"{Path(config.data).name}, {config.model}, {config.head} heads"
    in_order = {method: histories[method] for method in config.methods if method in histories}
    return plots.of_comparison(in_order, reduction_of(config), title)
