"""What a comparison has shown, in words, and what to try next: from its numbers and their standard errors."""

from __future__ import annotations

import math
from typing import Any

from .report import BASELINE, COSTS, Summaries, Summary, mean, paired, pairs_of, relative

# Two-sided 95% quantiles of Student's t with 1, 2, ... degrees of freedom; the last one also stands for more.
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
MOST_SEEDS = 24  # that are worth a try
DEAR = 2.0  # times the step of layerwise training
CIFAR = "--data cifar10 --download --model resnet32 --modules 3 --head conv --train-subset 5000 --epochs 5"

Paired = dict[str, Any]  # what report.paired gives


def findings(summaries: Summaries) -> str:
    """Sentences, one a line: accuracies against each other, the SGR loss, the costs of a step. "" of one method alone.

    Differences are means over seeds that both methods have.
    """
    against = [("sgr", "layerwise"), *((method, BASELINE) for method in summaries if method != BASELINE)]
    found = [accuracy(one, other, paired(summaries, one, other)) for one, other in against]
    return "\n".join(sentence for sentence in (*found, _sgr_loss(summaries), _costs(summaries)) if sentence)


def next_steps(summaries: Summaries, data: str) -> str:
    """What would tell more than this comparison of runs on ``data``, one a line."""
    found = [_for_certainty(paired(summaries)), _for_agreement(summaries), _for_time(summaries)]
    if data == "digits":
        found.append(f"digits are small, other data may give other answers: try\nsgr-train compare {CIFAR}")
    return "\n".join(f"next: {sentence}" for sentence in found if sentence)


def accuracy(one: str, other: str, result: Paired | None) -> str:
    """How much more accurate ``one`` was than ``other``, and whether that may be chance. "" of no pairs."""
    if result is None:
        return ""
    difference, error = 100 * result["accuracy_difference"], result["standard_error"]
    uncertain, seeds = "", "one seed"
    if error is not None:
        uncertain, seeds = f" (standard error {100 * error:.2f})", f"{result['seeds']} seeds"
    size = f"{abs(difference):.2f} points{uncertain}"
    if abs(difference) < 0.005:
        return f"{one} was as accurate as {other} on {seeds}: a difference of {size}."
    chance = "" if is_certain(result) else ", which may be chance"
    return f"{one} was {size} {'more' if difference > 0 else 'less'} accurate than {other} on {seeds}{chance}."


def is_certain(result: Paired) -> bool:
    """Whether a difference is so large that chance gives one in 20 times at most (Student's t, paired)."""
    error = result["standard_error"]
    return error is not None and abs(result["accuracy_difference"]) > _quantile(result["seeds"]) * error


def _quantile(seeds: int) -> float:
    return T_95[min(seeds - 1, len(T_95)) - 1]


def _sgr_loss(summaries: Summaries) -> str:
    pairs = _with_sgr_loss(summaries)
    if not pairs:
        return ""
    lower = paired(summaries)["sgr_lower_on"]
    with_sgr, without = (mean([run["sgr"] for run in runs]) for runs in zip(*pairs, strict=True))
    return (
        f"The SGR loss was lower with sgr than with layerwise on {lower} of {len(pairs)} seeds: on average "
        f"{with_sgr:.4g} and {without:.4g}."
    )


def _with_sgr_loss(summaries: Summaries) -> list[tuple[Summary, Summary]]:
    pairs = pairs_of(summaries, "sgr", "layerwise")
    return [pair for pair in pairs if all(run["sgr"] is not None for run in pair)]


def _costs(summaries: Summaries) -> str:
    ratios = [relative(summaries, cost.entry) for cost in COSTS]
    of_methods = {method: [values.get(method) for values in ratios] for method in summaries if method != BASELINE}
    parts = [f"{method} {' and '.join(map(_times, found))}" for method, found in of_methods.items() if any(found)]
    return f"A step took, over one of {BASELINE} in time and in memory: {', '.join(parts)}." if parts else ""


def _times(ratios: list[float] | None) -> str:
    return f"{mean(ratios):.2f}x" if ratios else "-"


def _for_certainty(result: Paired | None) -> str:
    """Whether SGR is more accurate than layerwise training."""
    if result is None:
        return ""
    if result["standard_error"] is None:
        return "one seed tells little: try --seeds 0 1 2 3 4 5"
    if not is_certain(result):
        seeds = _seeds_to_tell(result)
        if seeds > MOST_SEEDS:
            return "seeds will not tell sgr from layerwise soon: try another --rho, which sgr-train choose finds"
        numbers = " ".join(map(str, range(seeds)))
        return f"{seeds} seeds would tell this from chance: try --seeds {numbers}"
    if result["accuracy_difference"] < 0:
        return "sgr did harm: try a smaller weight, which sgr-train choose --rhos 0.01 0.03 finds"
    return "sgr was of use: sgr-train choose finds the --rho that serves it best"


def _seeds_to_tell(result: Paired) -> float:
    """How many make a difference of this size certain, with the deviation that these seeds have."""
    difference = abs(result["accuracy_difference"])
    deviation = result["standard_error"] * math.sqrt(result["seeds"])
    candidates = range(result["seeds"] + 1, MOST_SEEDS + 1)
    return next((n for n in candidates if difference > _quantile(n) * deviation / math.sqrt(n)), math.inf)


def _for_agreement(summaries: Summaries) -> str:
    pairs = _with_sgr_loss(summaries)
    few = pairs and 2 * paired(summaries)["sgr_lower_on"] <= len(pairs)
    return "the SGR loss did not fall: try a larger --rho" if few else ""


def _for_time(summaries: Summaries) -> str:
    pairs = pairs_of(summaries, "sgr", "layerwise")
    ratio = mean([one["seconds_per_step"] / other["seconds_per_step"] for one, other in pairs])
    if ratio is None or ratio < DEAR:
        return ""
    return f"a step of sgr took {ratio:.1f}x the time of one of layerwise: --every 4 reconciles at every fourth alone"
