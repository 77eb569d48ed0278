"""The command: options, rows on disk as they come, and the facts they stand under."""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import types

import pytest
import torch
from sgr_bench import cli, results, timing
from sgr_bench.checks import WrongResult, require_error_below


@pytest.fixture
def part(monkeypatch):
    """A part whose second row is wrong; what it wrote before can be looked at."""

    def rows(args: argparse.Namespace):
        yield f"--size {args.size}", {"value": 1, "size": args.size}
        if args.size > 3:
            raise WrongResult("the second is wrong")
        yield "--size 0", {"value": 2}

    module = types.SimpleNamespace(
        __doc__="A part.",
        add_options=lambda parser: parser.add_argument("--size", type=int, default=3),
        rows=rows,
        line=lambda row: f"value {row['value']}",
    )
    monkeypatch.setattr(cli.importlib, "import_module", lambda name, package: module)


def test_rows_carry_command_date_and_machine(part, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert cli.main(["roofline", "--out", str(folder), "--threads", "1", "--size", "2"]) == 0
    assert capsys.readouterr().out == "value 1\nvalue 2\n"
    stored = results.load(folder / "roofline-cpu.json")
    assert stored["command"] == "sgr-bench roofline --device cpu --threads 1 --size 2"
    first, second = stored["rows"]
    assert first["command"] == "sgr-bench roofline --device cpu --threads 1 --size 2" and first["size"] == 2
    assert second["command"] == "sgr-bench roofline --device cpu --threads 1 --size 0"
    for row in (first, second):
        assert row["date"] == results.today() and row["machine"]["torch"] == torch.__version__
        assert row["machine"]["threads"] == 1 and row["machine"]["revision"] is not None


def test_a_stop_loses_nothing_and_a_wrong_result_ends_the_run(part, tmp_path, capsys):
    assert cli.main(["roofline", "--out", str(tmp_path), "--size", "4"]) == 1
    output = capsys.readouterr()
    assert output.out == "value 1\n" and output.err == "sgr-bench roofline: the second is wrong\n"
    assert [row["value"] for row in json.loads((tmp_path / "roofline-cpu.json").read_text())["rows"]] == [1]


def test_a_failure_is_kept_and_the_rest_goes_on(part, monkeypatch, tmp_path, capsys):
    def rows(args: argparse.Namespace):
        yield "--size 1", {"value": 1, "failure": "the first has failed"}
        yield "--size 2", {"value": 2}

    monkeypatch.setattr(cli.importlib.import_module("", ""), "rows", rows)
    assert cli.main(["roofline", "--out", str(tmp_path), "--threads", "1"]) == 1
    assert capsys.readouterr() == ("value 2\n", "sgr-bench roofline: the first has failed\n")
    stored = json.loads((tmp_path / "roofline-cpu.json").read_text())
    assert [row["value"] for row in stored["rows"]] == [2]
    [failure] = stored["failures"]
    assert failure["value"] == 1 and failure["command"].endswith("--size 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_an_error(part, capsys):
    assert cli.main(["roofline", "--device", "cuda"]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["report", *cli.PARTS])
def test_every_part_explains_itself(part, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([part, "--help"])
    assert stop.value.code == 0
    assert f"usage: sgr-bench {part}" in capsys.readouterr().out


def test_command_runs_from_any_folder(tmp_path):
    script = pathlib.Path(sys.executable).parent / "sgr-bench"
    process = subprocess.run([script, "memory", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Peak memory of one training step" in process.stdout


def test_timing_is_interleaved_and_summed_up():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = timing.interleaved(runs, repeats=5)
    assert order == ["a", "b"] * 6  # one round to warm up
    for low, middle, high in ((t.low, t.seconds, t.high) for t in found.values()):
        assert 0 <= low <= middle <= high
    assert timing._summary([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == (3.5, 2.0, 5.0, 6)
    assert timing._summary([2.0]) == (2.0, 2.0, 2.0, 1)


def test_repeats_fit_the_budget():
    assert timing.repeats_for(0.1, budget=2.0) == 20
    assert timing.repeats_for(10.0, budget=2.0) == 3
    assert timing.repeats_for(1e-6, budget=2.0) == 300


@pytest.mark.parametrize("result", [torch.tensor([1.0, 2.1]), torch.tensor([1.0, float("nan")])])
def test_wrong_results_are_refused(result):
    truth = torch.tensor([1.0, 2.0])
    assert require_error_below(1e-3, "it", truth + 1e-6, truth) < 1e-5
    with pytest.raises(WrongResult, match="it is wrong"):
        require_error_below(1e-3, "it", result, truth)
