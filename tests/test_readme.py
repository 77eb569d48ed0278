"""The README: its code and its commands run as printed, and its numbers are those of the stored results."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import torch
from sgr_bench import cli, results, tables
from sgr_train import report
from sgr_train.findings import findings, next_steps
from torch import nn

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = [line.partition("#")[0].strip() for line in SHELL.splitlines()]
INLINE = re.findall(r"`((?:python -m|sgr-train|sgr-bench) [^`]*)`", README)
# Appended so that a command that would work for long ends soon, or so that it only says what it would do.
SHORT = {
    "make": "-n",
    "pip install": "--dry-run --no-deps --no-build-isolation",
    "sgr-train methods": "",
    "sgr-train recipe": "",
    "sgr-train": "--epochs 1 --train-subset 64 --depth 3",
    "sgr-bench": "--help",
    "bash bench/gpu.sh": "--help",
}


def surroundings() -> dict:
    """What a training loop has at hand where the README's snippets start."""
    torch.manual_seed(0)
    bodies = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
    linears = [nn.Linear(6, 3) for _ in bodies]
    heads = [lambda f, y, linear=linear: nn.functional.cross_entropy(linear(f), y) for linear in linears]
    pairs = [nn.ModuleList(pair) for pair in zip(bodies, linears, strict=True)]
    x, y = torch.randn(4, 6, requires_grad=True), torch.randint(3, (4,))
    return {
        "torch": torch,
        "bodies": bodies,
        "heads": heads,
        "optimizers": [torch.optim.SGD(pair.parameters(), lr=0.1) for pair in pairs],
        "x": x,
        "y": y,
        "batches": [(x, y), (x, y)],
        "loss": heads[0](bodies[0](x), y),
        "delta_pre": torch.randn(4, 6),
    }


@pytest.mark.parametrize("until", range(1, len(BLOCKS) + 1))
def test_snippets_run(until):
    names = surroundings()
    before = names["bodies"][0][0].weight.clone()
    for block in BLOCKS[:until]:
        exec(compile(block, "README.md", "exec"), names)
    weight = names["bodies"][0][0].weight
    assert weight.grad.isfinite().all()
    assert weight.grad.any()
    assert (until == 1) == torch.equal(weight, before)  # the loops of the others step their optimizers


def test_there_are_snippets_and_commands():
    assert len(BLOCKS) == 3
    assert len(COMMANDS) == 22


@pytest.mark.parametrize("command", [*COMMANDS, *INLINE])
def test_commands_run(command, tmp_path):
    words = command
    if "--help" not in command:
        words += " " + next((extra for start, extra in SHORT.items() if start in command), "")
    of_checkout = "pip install" in command or command.startswith(("make", "bash bench/"))
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.run(
        words, shell=True, cwd=ROOT if of_checkout else tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    if command == "make train":
        assert "sgr-train compare" in process.stdout
    if command == "make test":
        assert "-m pytest" in process.stdout


def test_flags_of_the_long_run_exist(tmp_path):
    """The recipe that is too long to run here fails on nothing but the missing data."""
    flags = re.search(r"in 16 modules: `(.*?)`", README, re.DOTALL)[1].replace("--download", "")
    command = [sys.executable, "-m", "sgr_train", "run", "--data-dir", str(tmp_path), *shlex.split(flags)]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2 and "cifar10 is not in --data-dir" in process.stderr


@pytest.mark.parametrize("name", ["train", "digits", "engines"])
def test_accuracies_are_those_of_the_results(name):
    result = json.loads((results.STORED / f"{name}.json").read_text())
    table = report.comparison_table(result["runs"])
    words = findings(result["runs"]) if "sgr_minus_layerwise" in result else ""
    steps = next_steps(result["runs"], "digits") if name == "train" else ""
    assert "\n".join(text for text in (table, words, steps) if text) + "\n```" in README


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("step", tables.whole_steps),
        ("memory", tables.memory),
        ("gradients", tables.gradients),
        ("compiled", tables.compiled),
        ("micro", tables.blocks),
    ],
)
def test_benchmark_tables_are_those_of_the_results(part, table):
    result = results.load(results.STORED / f"{part}-cpu.json")
    assert table(result) in README
    assert result["machine"]["name"] in README and result["date"] in README and result["command"] in README


def test_page_of_benchmarks_is_that_of_the_results(tmp_path):
    assert cli.main(["report", str(results.STORED), "--out", str(tmp_path)]) == 0
    stored = ROOT / "docs" / "benchmarks"
    assert (tmp_path / "report.md").read_text() == (stored / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in stored.iterdir()}
