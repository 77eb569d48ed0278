"""The README: its code and its commands run as printed, and its numbers are those of the stored results."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pages
import pytest
import torch
import torchvision  # noqa: F401  of the table of what only this can do
from sgr_bench import cli, results, summary
from sgr_train import report
from sgr_train.findings import findings
from torch import nn

import sgr_kernels as sk

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LONGEST = 150  # lines: what is longer has a page in docs
[DIFF] = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)
[LOOP] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [command for block in pages.of(README, "sh") for command in block.lines()]
INLINE = [" ".join(found.split()) for found in re.findall(r"`((?:python -m|sgr-train|sgr-bench)\s[^`]*)`", README)]


def run(code: str, folder: pathlib.Path) -> str:
    """What a script prints, in a process of its own; a warning ends it."""
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_it_is_short():
    assert len(README.splitlines()) <= LONGEST


# --- the two doors ----------------------------------------------------------------------------------------------------


def side(sign: str) -> str:
    """The script before ("-") or after ("+") the change."""
    lines = DIFF.splitlines()
    assert {line[:1] for line in lines} <= {" ", "+", "-", ""}
    return "\n".join(line[1:] for line in lines if line[:1] in (" ", sign, ""))


def test_the_library_in_the_place_of_algorithm_1_gives_the_same_weights(tmp_path):
    """What is left is small beside what the SGR loss changes, which a script without it shows."""
    codes = {"before": side("-"), "after": side("+"), "without": side("+").replace("weight=100", "weight=0")}
    assert "sgr_kernels" not in codes["before"] and codes["without"] != codes["after"]
    weights = {}
    for name, code in codes.items():
        run(f"{code}\ntorch.save([p for part in bodies + heads for p in part.parameters()], '{name}.pt')", tmp_path)
        saved = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        weights[name] = torch.cat([parameter.detach().flatten() for parameter in saved])
    effect = (weights["before"] - weights["without"]).norm()
    assert (weights["after"] - weights["before"]).norm() < 0.005 * effect
    assert effect > 1e-3 * weights["before"].norm()


def test_the_loss_alone_is_that_of_algorithm_1(tmp_path):
    [ours] = re.findall(r"`(sk\.SGRLoss\(.*?\)\(.*?\))`", README)
    theirs = re.search(r"100 \* mse_loss\(.*\)", DIFF)[0]
    code = (
        side("-")
        .replace(theirs, f"(difference := [{ours}, {theirs}])[0]")
        .replace("import torch\n", "import torch\nimport sgr_kernels as sk\n", 1)
    )
    ours, theirs = map(float, run(f"{code}\nprint(*(each.item() for each in difference))", tmp_path).split())
    assert ours == pytest.approx(theirs, rel=1e-4) and theirs > 0


def test_the_loop_learns_and_what_it_saves_needs_no_package(tmp_path):
    accuracy = float(re.fullmatch(r"tensor\((.*)\)\n", run(LOOP, tmp_path))[1])
    assert accuracy > 0.8  # 0.1 by chance
    names = {"nn": nn}
    exec(re.search(r"^network = nn\.Sequential\(.*?^                .*?$", LOOP, re.DOTALL | re.MULTILINE)[0], names)
    network = names["network"]
    before = network[0].weight.clone()
    network.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    assert not torch.equal(network[0].weight, before)


# --- what only this can do --------------------------------------------------------------------------------------------

ONLY_HERE = re.findall(r"^\| `(.*?)`.*? \| `(.*?)` \| `(.*?)` \| takes it \|$", README, re.MULTILINE)


@pytest.mark.parametrize(("body", "x", "refusal"), ONLY_HERE)
def test_what_only_this_can_do(body, x, refusal):
    torch._dynamo.reset()  # what other tests have compiled decides what this graph keeps, and so how it refuses
    body, x = eval(body), eval(x)
    step = [body, lambda output, y: output.square().mean(), x, None, torch.randn_like(x)]
    with pytest.raises(RuntimeError, match=re.escape(refusal)):
        sk.local_step(*step, weight=0.1, engine="autograd")
    assert sk.local_step(*step, weight=0.1, engine="directional").sgr > 0
    assert all(parameter.grad.isfinite().all() for parameter in body.parameters())


def test_there_are_examples_and_commands():
    assert len(ONLY_HERE) == 3
    assert (len(COMMANDS), len(INLINE)) == (5, 3)


@pytest.mark.parametrize("command", [*COMMANDS, *INLINE])
def test_commands_run(command, tmp_path):
    said = pages.in_shell(command, tmp_path)
    if command == "make train":
        assert "sgr-train compare" in said
    if command == "make test":
        assert "-m pytest" in said


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_accuracies_are_those_of_the_results():
    runs = json.loads((results.STORED / "train.json").read_text())["runs"]
    assert f"{report.comparison_table(runs)}\n{findings(runs)}\n```" in README


def test_tables_and_the_sentence_are_those_of_the_results():
    assert summary.costs() in README and summary.findings() in README
    assert summary.against_algorithm_1() in " ".join(README.split())


def test_page_of_benchmarks_is_that_of_the_results(tmp_path):
    assert cli.main(["report", str(results.STORED), "--out", str(tmp_path)]) == 0
    stored = ROOT / "docs" / "benchmarks"
    assert (tmp_path / "report.md").read_text() == (stored / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in stored.iterdir()}
