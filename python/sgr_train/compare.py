"""Several runs and what they say together: methods against each other, and the choice of lambda."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import checkpoint, report
from .config import ChooseConfig, CompareConfig, RunConfig, Settings, shared
from .errors import Diverged, UsageError, say
from .files import write_json
from .folder import locked, make_folder
from .train import setup, train, train_and_test

Runs = dict[str, RunConfig]  # by what they are called
Row = dict[str, Any]


def compare(config: CompareConfig) -> None:
    """Run every method with every seed, those that are finished already excepted; print and write the result.

    Raises:
        UsageError: runs diverged; the result is that of the others.
    """
    runs = {
        f"{method} seed {seed}": _run(config, f"{method}-seed{seed}", method=method, seed=seed)
        for seed in config.seeds
        for method in config.methods
    }
    run_id = _begin(config, runs)
    results, diverged = _each(runs, _test)
    summaries = {}
    for method in config.methods:
        finished = [result for name, result in results.items() if runs[name].method == method]
        if finished:
            summaries[method] = finished
    if summaries:
        result = report.paired(summaries)
        say("\n" + report.comparison_table(summaries))
        if result is not None:
            say(report.paired_text(result))
        summary = {"runs": summaries, "sgr_minus_layerwise": result, "diverged": list(diverged)}
        write_json(config.out / checkpoint.SUMMARY, summary, run_id)
        finished_runs = [runs[name] for name in results]
        checkpoint.draw(config.out / "comparison.png", run_id, lambda: _plot(config, finished_runs))
    _refuse(diverged, runs)


def choose(config: ChooseConfig) -> None:
    """Mean validation accuracy for every weight; the best one, the smallest of equals. Tests nothing.

    Raises:
        UsageError: runs diverged; a weight with such a run is no candidate.
    """
    runs = {}
    for weight in (0.0, *sorted(config.weights)):
        own = {"method": "sgr" if weight else "layerwise", "sgr_weight": weight}
        for seed in config.seeds:
            runs[f"lambda {weight:g} seed {seed}"] = _run(config, f"weight{weight:g}-seed{seed}", seed=seed, **own)
    run_id = _begin(config, runs)
    results, diverged = _each(runs, _validate)
    last: dict[float, list[Row]] = {run.sgr_weight: [] for run in runs.values()}
    for name, run in runs.items():
        if name in diverged:
            last.pop(run.sgr_weight, None)
        elif run.sgr_weight in last:
            last[run.sgr_weight].append(results[name])
    accuracies = {weight: [row["val_accuracy"][-1] for row in rows] for weight, rows in last.items()}
    losses = {weight: [report.mean(row["sgr"]) for row in rows] for weight, rows in last.items()}
    candidates = [weight for weight in sorted(config.weights) if weight in last]
    if candidates:
        best = max(candidates, key=lambda weight: report.mean(accuracies[weight]))
        say("\n" + report.choice_table(accuracies, losses))
        say(f"chosen on the validation images: --sgr-weight {best:g} --reduction {config.reduction}")
        rows = [{"sgr_weight": weight, "val_accuracy": accuracies[weight], "sgr": losses[weight]} for weight in last]
        choice = {"sgr_weight": best, "reduction": config.reduction, "candidates": rows, "diverged": list(diverged)}
        write_json(config.out / checkpoint.SUMMARY, choice, run_id)
    _refuse(diverged, runs)


def _run(config: Settings, name: str, **own: Any) -> RunConfig:
    """Settings of one run, in a folder of its own inside that of the command."""
    return RunConfig(**{**shared(config), **own}, out=config.out / name)


def _begin(config: Settings, runs: Runs) -> str:
    """Find out about bad input before anything is written, then begin the runs, or see that those begun are these.

    Returns the id of the command's own folder.
    """
    _, data = setup(next(iter(runs.values())))
    run_id = checkpoint.enter(config, data.fingerprint)
    for run in runs.values():
        make_folder(run.out)
        checkpoint.enter(run, data.fingerprint)
    return run_id


def _each(runs: Runs, action: Callable[[RunConfig, str], tuple[Row, str]]) -> tuple[dict[str, Row], dict[str, str]]:
    """Results of the runs that ended well, and what went wrong in those that diverged, by their names.

    Raises:
        UsageError: a run cannot go on for another reason; its name comes first.
    """
    results, diverged = {}, {}
    for number, (name, run) in enumerate(runs.items(), 1):
        label = f"[{number}/{len(runs)}] {name}"
        try:
            with locked(run.out):
                results[name], said = action(run, label)
        except Diverged as error:
            diverged[name] = said = str(error)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        say(f"{label}: {said}")
    return results, diverged


def _test(run: RunConfig, label: str) -> tuple[Row, str]:
    summary = train_and_test(run, label)
    return summary, f"test accuracy {summary['test_accuracy']:.2%}"


def _validate(run: RunConfig, label: str) -> tuple[Row, str]:
    row = train(run, label)[0].history[-1]
    return row, f"validation accuracy {row['val_accuracy'][-1]:.2%}"


def _refuse(diverged: dict[str, str], runs: Runs) -> None:
    """End in an error that names the runs whose results are missing."""
    if diverged:
        name, first = next(iter(diverged.items()))
        others = f"{len(diverged)} of {len(runs)} runs diverged and are left out: {', '.join(diverged)}"
        raise UsageError(f"{others} ({name}: {first})")


def _plot(config: CompareConfig, finished: list[RunConfig]) -> bytes:
    histories: dict[str, list[list[Row]]] = {}
    for method in config.methods:
        rows = [checkpoint.read_metrics(run.out, run.epochs) for run in finished if run.method == method]
        if rows:
            histories[method] = rows
    title = f"{Path(config.data).name}, {config.model}, {config.head} heads, lambda {config.sgr_weight:g}"
    return report.plot_comparison(histories, config.reduction, title)
