"""Several runs and what they say together: methods against each other, and the choice of lambda."""

from __future__ import annotations

import json
from typing import Any

from . import checkpoint, report
from .config import ChooseConfig, CompareConfig, RunConfig, Settings, shared
from .train import setup, train, train_and_test


def compare(config: CompareConfig) -> None:
    """Run every method with every seed, those that are finished already excepted; print and write the result."""
    runs = [
        _run(config, f"{method}-seed{seed}", method=method, seed=seed)
        for seed in config.seeds
        for method in config.methods
    ]
    _begin(config, runs)
    summaries: dict[str, list[dict[str, Any]]] = {method: [] for method in config.methods}
    histories: dict[str, list[list[dict[str, Any]]]] = {method: [] for method in config.methods}
    for number, run in enumerate(runs, 1):
        label = f"[{number}/{len(runs)}] {run.method} seed {run.seed}"
        summary = train_and_test(run, label)
        summaries[run.method].append(summary)
        histories[run.method].append(_history(run))
        print(f"{label}: test accuracy {summary['test_accuracy']:.2%}", flush=True)
    result = report.paired(summaries)
    print("\n" + report.comparison_table(summaries))
    if result is not None:
        print(report.paired_text(result))
    title = f"{config.data}, {config.model}, {config.head} heads, lambda {config.sgr_weight:g}"
    report.plot_comparison(histories, config.reduction, title, config.out / "comparison.png")
    checkpoint.write_json(config.out / checkpoint.SUMMARY, {"runs": summaries, "sgr_minus_layerwise": result})


def choose(config: ChooseConfig) -> None:
    """Mean validation accuracy for every weight; the best one, the smallest of equals. Tests nothing."""
    runs = []
    for weight in (0.0, *sorted(config.weights)):
        own = {"method": "sgr" if weight else "layerwise", "sgr_weight": weight}
        runs += [_run(config, f"weight{weight:g}-seed{seed}", seed=seed, **own) for seed in config.seeds]
    _begin(config, runs)
    last: dict[float, list[dict[str, Any]]] = {run.sgr_weight: [] for run in runs}
    for number, run in enumerate(runs, 1):
        label = f"[{number}/{len(runs)}] lambda {run.sgr_weight:g} seed {run.seed}"
        row = train(run, label)[0].history[-1]
        last[run.sgr_weight].append(row)
        print(f"{label}: validation accuracy {row['val_accuracy'][-1]:.2%}", flush=True)
    accuracies = {weight: [row["val_accuracy"][-1] for row in rows] for weight, rows in last.items()}
    losses = {weight: [report.mean(row["sgr"]) for row in rows] for weight, rows in last.items()}
    best = max(sorted(config.weights), key=lambda weight: report.mean(accuracies[weight]))
    print("\n" + report.choice_table(accuracies, losses))
    print(f"chosen on the validation images: --sgr-weight {best:g} --reduction {config.reduction}")
    candidates = [{"sgr_weight": weight, "val_accuracy": accuracies[weight], "sgr": losses[weight]} for weight in last]
    choice = {"sgr_weight": best, "reduction": config.reduction, "candidates": candidates}
    checkpoint.write_json(config.out / checkpoint.SUMMARY, choice)


def _run(config: Settings, name: str, **own: Any) -> RunConfig:
    """Settings of one run, in a folder of its own inside that of the command."""
    return RunConfig(**{**shared(config), **own}, out=config.out / name)


def _begin(config: Settings, runs: list[RunConfig]) -> None:
    """Find out about bad input before anything is written, then make the folders."""
    setup(runs[0])
    checkpoint.write_config(config)
    for run in runs:
        run.out.mkdir(exist_ok=True)


def _history(run: RunConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.out / checkpoint.METRICS).read_text().splitlines()]
