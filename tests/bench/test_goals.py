"""The goals against results that are made up: met, missed, or not measured, and why."""

from __future__ import annotations

import json
import re

import pytest
from sgr_bench import cases, goals, zoo
from sgr_bench.micro import MODES, NAMES, OPS
from sgr_bench.step import PRECISIONS


def micro_row(operation: goals.Operation, provider: str, seconds: float, fraction: float = 0.5) -> dict:
    key = {**operation._asdict(), "shape": list(operation.shape), "provider": provider}
    return {**key, "seconds": seconds, "fraction": fraction, "timed": "graph"}


def step_row(case: dict, method: str, seconds: float, peak: int | None = None) -> dict:
    return {**case, "method": method, "seconds": seconds, "peak_bytes": peak}


def results() -> dict:
    """Every goal just met."""
    micro = [
        micro_row(goals.RESIDUAL, "default", 3e-4, 0.85),
        micro_row(goals.LARGE_RESIDUAL, "default", 1e-3, 0.75),
        micro_row(goals.SMALL_RESIDUAL, "default", 8e-6),
        micro_row(goals.SMALL_RESIDUAL, "torch.compile", 8e-6),
        micro_row(goals.LOSS_FORWARD, "default", 1e-4, 0.9),
        micro_row(goals.LOSS_BACKWARD, "default", 1e-4, 0.9),
        micro_row(goals.LOSS, "default", 1e-3),
        micro_row(goals.LOSS, "eager", 8e-3),
        micro_row(goals.LOSS, "torch.compile", 1.6e-3),
        micro_row(goals.BLOCK, "default", 1.15e-3),
        micro_row(goals.BLOCK, "library GEMM", 1e-3),
        micro_row(goals.BLOCK, "Algorithm 1", 2.3e-3),
    ]
    step = [
        step_row(goals.RESNET50, "BP", 1.0, 2**30),
        step_row(goals.RESNET50, "directional", 2.1, 2**29),
        step_row(goals.RESNET50, "directional, every 4th", 1.35, 2**29),
        step_row(goals.RESNET32, "BP, captured", 1.0),
        step_row(goals.RESNET32, "directional, overlapping, captured", 2.5),
    ]
    return {"micro": {"rows": micro, "failures": []}, "step": {"rows": step, "failures": []}}


def verdicts(found: dict) -> list[str]:
    return [re.split(r"not measured: |: (?=met|MISSED)", goals.judged(goal, found))[-1] for goal in goals.GOALS]


def test_goals_that_are_just_met_are_met():
    assert verdicts(results()) == ["met"] * len(goals.GOALS)


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.what)
def test_a_goal_that_is_just_missed_is_missed(goal):
    limit = goal.limit * (0.999 if goal.at_most else 1.001)
    line = goals.judged(goal._replace(limit=limit), results())
    assert line.endswith(": MISSED") and line.startswith(f"{goal.what}: ")


def test_the_measured_value_stands_beside_the_goal():
    found = results()
    found["micro"]["rows"][2]["seconds"] = 9.888e-6
    goal = next(goal for goal in goals.GOALS if goal.unit == " us")
    assert goals.judged(goal, found) == "sgr_residual full 128x4096 float32: <= 8 us: 9.89 us: MISSED"


def test_what_was_not_measured_says_why():
    assert all(line.startswith("no results of") for line in verdicts({}))
    found = results()
    for part in found.values():
        part["rows"] = []
    assert verdicts(found)[0] == "no row of sgr_residual, full, [256, 200704], float32, default"
    failure = {**goals.RESNET50, "method": "directional", "failure": "directional: torch.OutOfMemoryError: 80 GiB"}
    found["step"]["failures"] = [failure]
    line = next(goals.judged(goal, found) for goal in goals.GOALS if goal.what.startswith("resnet50"))
    assert line.endswith("not measured: directional: torch.OutOfMemoryError: 80 GiB")


def test_kernels_timed_with_their_launches_are_not_judged():
    found = results()
    found["micro"]["rows"][5]["timed"] = "events"
    assert verdicts(found)[5] == "no graph holds it: 0.90 with its launches"


def test_goals_are_of_what_is_measured():
    for operation in [*goals.FIRST, goals.LOSS_FORWARD, goals.LOSS_BACKWARD]:
        op = OPS[operation.op]
        sizes = {size.shape: size for size in cases.of(op.operators[0]).sizes}
        assert operation.mode in op.modes and operation.mode in MODES and sizes[operation.shape].timed
        assert operation.dtype == "float32" or sizes[operation.shape].halves
    assert goals.OURS in NAMES and {"eager", "torch.compile", "library GEMM", "Algorithm 1"} < set(NAMES)
    for case in (goals.RESNET50, goals.RESNET32):
        assert PRECISIONS["cuda"][zoo.classes(case["network"])] == case["precision"]


def test_the_page_has_failures_steps_and_goals(tmp_path, capsys):
    found = results()
    found["micro"]["failures"] = [{"failure": f"cuda: operator {index} is wrong"} for index in range(25)]
    for part, result in found.items():
        (tmp_path / f"{part}-cuda.json").write_text(json.dumps(result))
    (tmp_path / "step-cpu.json").write_text("no result of this device")
    assert goals.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "wrong, or failed: 25" and lines[1] == "micro: cuda: operator 0 is wrong"
    assert "... and 10 more, in the files PART-DEVICE.json" in lines
    steps = [line for line in lines if line.startswith("resnet") and "BP 1000.0 ms" in line]
    assert steps == [
        "resnet50 K=3 batch 256 bfloat16: BP 1000.0 ms, 1024 MiB; directional 2100.0 ms, 2.10x, 0.50x; "
        "directional, every 4th 1350.0 ms, 1.35x, 0.50x"
    ]
    title, *last = lines[-len(goals.GOALS) - 1 :]
    assert title == "goals:" and all(line.endswith(": met") for line in last)


def test_an_empty_folder_is_a_page_without_numbers(tmp_path, capsys):
    assert goals.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not measured: no results of") == len(goals.GOALS)
