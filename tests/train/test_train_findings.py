"""What a comparison says in words: right for numbers of either sign, of few seeds, and of runs that are missing."""

from __future__ import annotations

import math
import re
import shlex

import pytest
from scipy import stats
from sgr_train import report
from sgr_train.config import CompareConfig
from sgr_train.findings import CIFAR, MOST_SEEDS, T_95, findings, is_certain, next_steps
from sgr_train.flags import parse

CLEAR = [0.03, 0.04, 0.02, 0.03]  # differences that chance hardly gives, and such that it may
VAGUE = [0.03, -0.02, 0.04, -0.01]
COSTS = {"bp": (0.1, 1000), "layerwise": (0.12, 600), "sgr": (0.25, 800)}  # of a step: seconds, bytes


def runs(method: str, accuracies: list[float], sgr: list[float] | None = None, first: int = 0) -> list[dict]:
    """One a seed."""
    seconds, memory = COSTS[method]
    return [
        {
            "seed": seed,
            "test_accuracy": accuracy,
            "val_accuracy": 0.5,
            "sgr": sgr[seed - first] if sgr else None,
            "seconds_per_step": seconds,
            "step_memory_bytes": memory,
        }
        for seed, accuracy in enumerate(accuracies, first)
    ]


def both(differences: list[float], lower: int | None = None) -> report.Summaries:
    """layerwise and sgr, which is so much more accurate; its SGR loss is the lower one on so many seeds."""
    count = len(differences)
    lower = count if lower is None else lower
    sgr = [0.5] * lower + [2.0] * (count - lower)
    return {
        "layerwise": runs("layerwise", [0.9] * count, [1.0] * count),
        "sgr": runs("sgr", [0.9 + each for each in differences], sgr),
    }


@pytest.mark.parametrize(
    ("differences", "sentence", "step"),
    [
        (CLEAR, "3.00 points (standard error 0.41) more accurate than layerwise on 4 seeds.", "was of use"),
        ([-d for d in CLEAR], "3.00 points (standard error 0.41) less accurate than layerwise on 4 s", "did harm"),
        (VAGUE, "(standard error 1.47) more accurate than layerwise on 4 seeds, which may be chance.", "will not tell"),
        ([-d for d in VAGUE], "1.47) less accurate than layerwise on 4 seeds, which may be chance.", "will not tell"),
        ([0.02, 0.03], "2.50 points (standard error 0.50) more accurate than layerwise on 2 seeds, ", "3 seeds"),
        ([0.01, -0.01], "as accurate as layerwise on 2 seeds: a difference of 0.00 points (st", "will not tell"),
        ([0.0, 0.0], "a difference of 0.00 points (standard error 0.00).", "will not tell"),
        ([0.03], "3.00 points more accurate than layerwise on one seed, which may be chance.", "one seed tells"),
        ([-0.03], "3.00 points less accurate than layerwise on one seed, which may be chance.", "one seed tells"),
        ([0.0], "as accurate as layerwise on one seed: a difference of 0.00 points.", "one seed tells"),
    ],
)
def test_accuracies_against_each_other(differences, sentence, step):
    summaries = both(differences)
    first = findings(summaries).splitlines()[0]
    assert first.startswith("sgr was ") and sentence in first
    assert step in next_steps(summaries, "npz:x").splitlines()[0]


def test_what_is_certain_is_so_by_student():
    """The accuracy of two methods differs where the p-value of a paired t test is below 5%."""
    for differences in (CLEAR, VAGUE, [0.02, 0.03], [0.02, 0.021], [0.03, 0.01, 0.02], [0.01, 0.01, 0.0, 0.02, 0.01]):
        p_value = stats.ttest_1samp(differences, 0.0).pvalue
        assert is_certain(report.paired(both(differences))) == (p_value < 0.05)
    exact = stats.t.ppf(0.975, range(1, len(T_95) + 1))
    assert list(T_95) == pytest.approx(list(exact), abs=0.006)


def test_the_seeds_that_would_tell():
    """With the deviation that was found, so many are enough, and one less is not."""
    differences = [0.03, 0.0, 0.02, -0.005]
    result = report.paired(both(differences))
    assert not is_certain(result)
    seeds = re.search(r"(\d+) seeds would tell .*: try --seeds ([\d ]+)$", next_steps(both(differences), "x"), re.M)
    count = int(seeds[1])
    assert seeds[2] == " ".join(map(str, range(count))) and 4 < count < MOST_SEEDS
    deviation = result["standard_error"] * math.sqrt(4)
    told = [is_certain({**result, "seeds": n, "standard_error": deviation / math.sqrt(n)}) for n in (count - 1, count)]
    assert told == [False, True]


@pytest.mark.parametrize("lower", [0, 2, 4])
def test_the_sgr_loss_of_either_method_may_be_the_lower_one(lower):
    summaries = both(CLEAR, lower)
    ours = sum(run["sgr"] for run in summaries["sgr"]) / 4
    sentence = f"The SGR loss was lower with sgr than with layerwise on {lower} of 4 seeds: on average {ours:g} and 1."
    assert sentence in findings(summaries)
    assert ("the SGR loss did not fall: try a larger --rho" in next_steps(summaries, "x")) == (lower <= 2)


def test_costs_over_those_of_bp():
    summaries = {"bp": runs("bp", [0.99] * 4), **both(CLEAR)}
    text = findings(summaries)
    assert "A step took, over one of bp in time and in memory: layerwise 1.20x and 0.60x, sgr 2.50x and 0.80x." in text
    assert "sgr was 6.00 points (standard error 0.41) less accurate than bp on 4 seeds.\n" in text
    assert "layerwise was 9.00 points (standard error 0.00) less accurate than bp on 4 seeds.\n" in text
    assert "a step of sgr took 2.1x the time of one of layerwise: --every 4" in next_steps(summaries, "x")
    for run in summaries["sgr"]:
        run["seconds_per_step"], run["step_memory_bytes"] = 0.05, None
    assert "layerwise 1.20x and 0.60x, sgr 0.50x and -." in findings(summaries)
    assert "--every" not in next_steps(summaries, "x")


def test_without_bp_nothing_is_over_it():
    text = findings(both(CLEAR)) + next_steps(both(CLEAR), "x")
    assert "bp" not in text and "A step took" not in text
    title, values = report.values_of(both(CLEAR), report.COSTS[0])
    assert title == "time a step, ms" and values["sgr"] == pytest.approx([250.0] * 4)


@pytest.mark.parametrize("name", ["bp", "layerwise", "sgr"])
def test_one_method_alone_is_not_compared(name):
    summaries = {name: runs(name, [0.9, 0.8], [1.0, 2.0])}
    assert (findings(summaries), next_steps(summaries, "x")) == ("", "")
    assert report.comparison_table(summaries).splitlines()[-1].startswith(name)


def test_runs_that_failed_have_no_part_in_it():
    """Seeds 0 and 1 of sgr, and 3 of layerwise: one seed is left that both have, and another that sgr and bp have."""
    summaries = {
        "bp": runs("bp", [0.95] * 4),
        "layerwise": runs("layerwise", [0.1, 0.2, 0.9], [1.0] * 3),
        "sgr": runs("sgr", [0.93, 0.97], [0.5, 0.5], first=2),
    }
    text = findings(summaries)
    assert "sgr was 3.00 points more accurate than layerwise on one seed, which may be chance." in text
    assert "sgr was as accurate as bp on 2 seeds: a difference of 0.00 points (standard error 2.00)." in text
    assert "lower with sgr than with layerwise on 1 of 1 seeds" in text
    del summaries["bp"][2:]  # what is left of bp has no seed with sgr
    assert "than bp" not in findings({name: summaries[name] for name in ("bp", "sgr")})
    assert report.comparison_table(summaries).splitlines()[-1].split()[-2:] == ["-", "-"]


def test_networks_of_one_module_have_no_sgr_loss():
    summaries = {name: [{**run, "sgr": None} for run in found] for name, found in both(CLEAR).items()}
    assert "SGR loss" not in findings(summaries) + next_steps(summaries, "x")


def test_what_is_to_be_tried_can_be():
    text = next_steps(both(CLEAR), "digits")
    assert text.endswith(f"try\nsgr-train compare {CIFAR}") and "digits" not in next_steps(
        both(CLEAR), "npz:digits.npz"
    )
    assert isinstance(parse(["compare", *shlex.split(CIFAR), "--every", "4", "--rho", "0.2"]), CompareConfig)
    parse(shlex.split("choose --rhos 0.01 0.03"))
