"""The command line: what it writes, and what it says about bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sgr_train import compare, report, train
from sgr_train.cli import main
from sgr_train.config import COMMANDS, RunConfig, fields_of, from_json, to_json
from sgr_train.flags import parse
from sgr_train.settings import make
from train_helpers import TINY, TINY_FLAGS, files

RUN_FILES = {
    "config.json",
    "metrics.jsonl",
    "checkpoint.pt",
    "checkpoint.previous.pt",
    "checkpoint.best.pt",
    "summary.json",
    "curves.png",
}


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_run(sgr_train, tmp_path):
    out = tmp_path / "deep" / "run"
    status, text, errors = sgr_train("run", *TINY_FLAGS, "--method", "sgr", "--seed", 2, "--out", out)
    assert (status, errors) == (0, "")
    assert set(files(out)) == RUN_FILES and is_png(out / "curves.png")
    assert "epoch 3/3" in text and "test accuracy" in text and str(out) in text
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["seed"], summary["modules"]) == ("sgr", 2, 3)
    assert summary["images"] == {"train": 128, "val": 360, "test": 359}
    assert f"test accuracy {summary['test_accuracy']:.2%}" in text
    expected = make(RunConfig, **TINY, seed=2)
    assert from_json(json.loads((out / "config.json").read_text())) == expected


def test_run_picks_a_folder_of_its_own(sgr_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sgr_train("run", *TINY_FLAGS, "--method", "bp")[0] == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert set(files(folder)) == RUN_FILES


def test_resuming_a_finished_run_changes_nothing(sgr_train, finished):
    before = files(finished)
    status, text, _ = sgr_train("run", "--resume", finished)
    assert status == 0 and "test accuracy" in text and files(finished) == before


def test_threads_are_those_of_pytorch(sgr_train, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    assert sgr_train("run", *TINY_FLAGS, "--epochs", 1, "--threads", 3, "--out", tmp_path / "run")[0] == 0
    assert given == [3]


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and torch.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "said"),
    [("tqdm", "sgr-train: needs the package tqdm: pip install 'sgr-kernels[train]'\n"), ("sgr_train.paths", None)],
)
def test_a_package_of_the_extra_that_is_missing_is_named(missing, said):
    """As after an installation of the library alone. What is missing of our own is no matter of an extra."""
    code = f"import sys; sys.modules['{missing}'] = None; from sgr_train.cli import main; sys.exit(main(['--version']))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if said is None:
        assert process.stderr.splitlines()[-1].startswith("ModuleNotFoundError")
    else:
        assert (process.returncode, process.stderr) == (2, said)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_field(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    flags = {option.name for option in fields_of(COMMANDS[command])} | {"reduction", "engine", "depth", "norm"}
    for name in flags if command == "choose" else flags | {"weight"}:
        assert re.search(rf"^  --{name.replace('_', '-')}\b", text, re.MULTILINE), name
    assert (command == "choose") == ("--weight X" not in text)


@pytest.mark.parametrize("config", [make(kind) for kind in COMMANDS.values()])
def test_settings_survive_json(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--method magic", "--method must be one of bp, dfa, dgl, dni, drtp, fa, greedy, infopro, layerwise, "),
        ("--model alexnut", "--model must be one of mlp, pepita_conv, plainnet, "),
        ("--data mnist", "--data must be one of cifar10, cifar100, digits"),
        ("--data npz:", "--data npz needs a path: npz:PATH"),
        ("--data digits:x", "--data digits takes nothing behind a colon"),
        ("--reduction none", "--reduction must be one of mean, batchmean, sum, got 'none'"),
        ("--head mlp", "--head must be one of conv, dgl, etf, infopro_cifar"),
        ("--engine warp", "--engine must be one of auto"),
        ("--device tpu", "--device must be one of auto, cpu, cuda"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--every 0", "--every must be at least 1, got 0"),
        ("--batch-size 1", "--batch-size must be at least 2"),
        ("--train-subset 1", "--train-subset must be at least 2"),
        ("--lr 0", "--lr must be a number > 0"),
        ("--lr nan", "--lr must be a number > 0"),
        ("--weight -1", "--weight must be a number >= 0"),
        ("--weight inf", "--weight must be a number >= 0"),
        ("--clip-grad-norm 0", "--clip-grad-norm must be a number > 0"),
        ("--clip-grad-norm inf", "--clip-grad-norm must be a number > 0"),
        ("--seed 4294967296", "--seed must be at most 4294967295, got 4294967296"),
        ("--seed -1", "--seed must be at least 0, got -1"),
        ("--lr 1e39", "--lr must be at most 3.4e+38, got 1e+39"),
        ("--weight-decay 1e300", "--weight-decay must be at most 3.4e+38"),
        ("--momentum 1e39", "--momentum must be at most 3.4e+38"),
        ("--relative-floor 1e39", "--relative-floor must be at most 3.4e+38"),
        ("--clip-grad-norm 1e39", "--clip-grad-norm must be at most 3.4e+38"),
        ("--weight 1e38 --every 4", "--weight must be at most 8.5e+37 with --every 4"),
        (f"--batch-size 1{23 * '0'}", "--batch-size must be at most 2147483647"),
        (f"--every 1{400 * '0'}", "--every must be at most 2147483647"),
        ("--epochs 99999999999", "--epochs must be at most 2147483647"),
        ("--bp-free --cuts 1", "--cuts must be left out with --bp-free"),
        ("--modules 7", "--modules must be 1 to 6"),
        ("--model mlp --head conv", "--head conv needs maps, and the output of these modules is vector of shape (16,)"),
        ("--model resnet32 --norm none", "unrecognized arguments: --norm none"),
        ("--bp-free --head conv", "--head must be etf with --bp-free, got 'conv'"),
        ("--curvature full", "--curvature must be one of exact, none, got 'full'"),
        ("--curvature none", "--curvature must be exact without --engine fused, got 'none'"),
        ("--cuts 3 9", "--cuts must increase and lie between 1 and 5"),
        ("--width 2", "--width"),
        ("--width 3000000", "); lower --width, --depth, --batch-size or --image-size"),
        ("--data npz:no.npz", "/no.npz: there is no such file"),
        ("--data folder:nowhere", "/nowhere needs train/CLASS/IMAGE"),
        ("--data cifar10 --data-dir nowhere", "--download"),
        ("--train-subset 5000", "--train-subset must be at most 1078"),
        ("--resume nowhere", "nowhere is not a run folder"),
        ("--resume nowhere --epochs 3", "drop the other flags"),
    ],
)
def test_bad_flags(sgr_train, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    status, text, errors = sgr_train("run", *flags.split())
    assert (status, text) == (2, "")
    assert errors.startswith("sgr-train: ") and words in errors and errors.count("\n") == 1
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "runs"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(sgr_train, tmp_path):
    status, _, errors = sgr_train("run", "--device", "cuda", "--out", tmp_path / "run")
    assert status == 2 and "--device cpu" in errors


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("compare", "--methods bp magic", "--method must be one of bp, dfa"),
        ("compare", "--methods bp bp", "--methods must be a list without repetitions"),
        ("compare", "--seeds 1 1", "--seeds must be a list without repetitions"),
        ("choose", "--weights 0 0.1", "--weights must be a number > 0"),
        ("choose", "--rhos 0 0.1", "--rhos must be a number > 0"),
        ("choose", "--rhos 0.1 0.1", "--rhos must be a list without repetitions"),
        ("choose", "--rhos 0.1 0.10000001", "--rhos must be numbers that differ in their first six digits"),
        ("choose", "--weights nan", "--weights must be a number > 0"),
        ("choose", "--weights 0.1 0.10000001", "--weights must be numbers that differ in their first six digits"),
        ("choose", "--weights inf", "--weights must be a number > 0"),
        ("choose", "--weights 1e39", "--weights must be at most 3.4e+38"),
        ("compare", "--seeds 1 4294967297", "--seeds must be at most 4294967295, got (1, 4294967297)"),
        ("compare", "--data npz:no.npz", "no such file"),
        ("choose", "--modules 99", "--modules"),
    ],
)
def test_bad_flags_of_the_other_commands(sgr_train, tmp_path, monkeypatch, command, flags, words):
    monkeypatch.chdir(tmp_path)
    status, text, errors = sgr_train(command, *flags.split())
    assert (status, text) == (2, "") and words in errors and errors.count("\n") == 1
    assert files(tmp_path) == {}


def test_unknown_flag(capsys):
    assert main(["run", "--lamda", "1"]) == 2 and "unrecognized arguments: --lamda 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_used_folder_is_refused(sgr_train, finished, command):
    before = files(finished)
    status, _, errors = sgr_train(command, "--out", finished)
    assert status == 2 and "already holds a run" in errors and "--resume" in errors and "--out" in errors
    assert files(finished) == before


def test_a_folder_with_something_else_is_refused(sgr_train, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    status, _, errors = sgr_train("run", "--out", tmp_path)
    assert status == 2 and "is not empty" in errors
    assert files(tmp_path) == {"thesis.txt": b"precious"}


def test_a_folder_that_cannot_be_written(sgr_train, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, errors = sgr_train("run", "--out", tmp_path / "file" / "run")
    assert status == 2 and "cannot be written to" in errors and errors.count("\n") == 1


@pytest.mark.usefixtures("permissions_count")
def test_a_read_only_folder(sgr_train, tmp_path):
    tmp_path.chmod(0o500)
    status, _, errors = sgr_train("run", "--out", tmp_path)
    tmp_path.chmod(0o700)
    assert status == 2 and "Permission denied" in errors


def test_the_wrong_command_for_a_folder(sgr_train, finished):
    status, _, errors = sgr_train("compare", "--resume", finished)
    assert status == 2 and f"sgr-train run --resume {finished}" in errors


def test_compare(sgr_train, tmp_path, monkeypatch):
    out = tmp_path / "comparison"
    status, text, errors = sgr_train("compare", *TINY_FLAGS, "--seeds", 0, 1, "--out", out)
    assert (status, errors) == (0, "")
    runs = {f"{method}-seed{seed}" for method in ("bp", "layerwise", "sgr") for seed in (0, 1)}
    assert {path.name for path in out.iterdir()} == runs | {"config.json", "summary.json", "comparison.png"}
    assert is_png(out / "comparison.png")
    summary = json.loads((out / "summary.json").read_text())
    for method in ("bp", "layerwise", "sgr"):
        assert [run["seed"] for run in summary["runs"][method]] == [0, 1]
        assert any(line.startswith(method) and "+-" in line for line in text.splitlines())
        assert all(run["seconds_per_step"] > 0 < run["step_memory_bytes"] for run in summary["runs"][method])
    for said in ("time a step / bp", "memory a step / bp", "accurate than layerwise on 2 seeds", "next: "):
        assert said in text
    # resumed: what is finished is not trained again, and the table is the same
    monkeypatch.setattr(train, "train_epoch", None)
    status, again, _ = sgr_train("compare", "--resume", out)
    assert status == 0 and again == text


def test_an_interrupted_comparison_goes_on(sgr_train, tmp_path, monkeypatch):
    out = tmp_path / "comparison"
    with monkeypatch.context() as patch:
        original, epochs = train.train_epoch, []

        def train_epoch(*args):
            epochs.append(1)
            if len(epochs) == 5:
                raise KeyboardInterrupt
            return original(*args)

        patch.setattr(train, "train_epoch", train_epoch)
        status, _, errors = sgr_train("compare", *TINY_FLAGS, "--seeds", 0, "--out", out)
    assert status == 130 and f"sgr-train compare --resume {out}" in errors
    assert not (out / "summary.json").exists()
    assert sgr_train("compare", "--resume", out)[0] == 0
    assert sgr_train("compare", *TINY_FLAGS, "--seeds", 0, "--out", tmp_path / "whole")[0] == 0
    for method in ("bp", "layerwise", "sgr"):
        one, other = (json.loads((tmp_path / name / f"{method}-seed0" / "summary.json").read_text())
                      for name in ("comparison", "whole"))  # fmt: skip
        assert one["test_accuracy_per_module"] == other["test_accuracy_per_module"] and one["sgr"] == other["sgr"]


@pytest.mark.parametrize(("better", "words"), [("weight", "--weight 0.2 --reduction batchmean"), ("rho", "--rho 0.2")])
def test_choose_takes_the_best_on_validation_images(sgr_train, tmp_path, monkeypatch, better, words):
    accuracy = {0.0: 0.99, 0.1: 0.7, 0.2: 0.9, 0.3: 0.9, 0.4: 0.8}
    seen = []

    def fake(run, label):
        flag, value = compare.candidate_of(run)
        seen.append((run.method, flag, value, run.seed))
        row = {"val_accuracy": [0.0, accuracy[value] + (flag == better) / 100], "sgr": [1.0]}
        return type("Run", (), {"history": [row]}), None

    monkeypatch.setattr(compare, "train", fake)
    out = tmp_path / "choice"
    values = (0.4, 0.1, 0.3, 0.2)
    status, text, _ = sgr_train("choose", "--weights", *values, "--rhos", *values, "--seeds", 7, 8, "--out", out)
    assert status == 0 and text.splitlines()[-2].endswith(words)
    assert json.loads((out / "summary.json").read_text())[better] == 0.2
    assert ("layerwise", "weight", 0.0, 7) in seen and ("sgr", "weight", 0.4, 8) in seen and len(seen) == 18
    assert ("sgr", "rho", 0.4, 7) in seen and text.count("lambda 0.4") >= 3 <= text.count("rho 0.4")


@pytest.mark.parametrize(
    ("flags", "candidates"),
    [
        ([], [("rho", 0.03), ("rho", 0.1), ("rho", 0.3)]),
        (["--weights", 0.2], [("weight", 0.2)]),
        (["--rhos", 0.5, 0.2], [("rho", 0.2), ("rho", 0.5)]),
    ],
)
def test_what_is_chosen_from(flags, candidates):
    assert compare.candidates_of(parse(["choose", *map(str, flags)])) == candidates


def test_choose_trains_and_never_tests(sgr_train, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "test", None)
    out = tmp_path / "choice"
    status, text, _ = sgr_train("choose", *TINY_FLAGS, "--weights", 0.1, 3, "--seeds", 5, "--out", out)
    assert status == 0 and "chosen on the validation images" in text
    assert not any("test" in name for name in json.loads((out / "summary.json").read_text()))
    candidates = json.loads((out / "summary.json").read_text())["candidates"]
    losses = [candidate["sgr"][0] for candidate in candidates]
    assert losses[0] > losses[1] > losses[2]  # the heavier the weight, the lower the SGR loss


def test_paired_difference():
    def runs(accuracies, losses):
        values = enumerate(zip(accuracies, losses, strict=True))
        return [{"seed": seed, "test_accuracy": a, "sgr": s} for seed, (a, s) in values]

    summaries = {
        "layerwise": runs([0.90, 0.80, 0.85], [1.0, 1.0, 1.0]),
        "sgr": runs([0.93, 0.81, 0.87], [0.5, 1.5, 0.4]),
    }
    result = report.paired(summaries)
    assert result["accuracy_difference"] == pytest.approx(0.02)
    assert result["standard_error"] == pytest.approx(0.01 / 3**0.5)
    assert (result["sgr_lower_on"], result["seeds"]) == (2, 3)
    assert report.paired({"bp": []}) is None
    without_one = {"layerwise": summaries["layerwise"][1:], "sgr": summaries["sgr"]}  # seed 0 has one run only
    assert report.paired(without_one)["accuracy_difference"] == pytest.approx(0.015)
    assert report.paired({name: rows[:1] for name, rows in summaries.items()})["standard_error"] is None
    of_one_module = {name: [{**run, "sgr": None} for run in runs] for name, runs in summaries.items()}
    assert report.paired(of_one_module) == {**result, "sgr_lower_on": 0}


def test_table_of_one_seed_has_no_deviation():
    row = {"seed": 3, "test_accuracy": 0.9, "val_accuracy": 0.8, "sgr": None, "seconds_per_step": 0.0015,
           "step_memory_bytes": 2**21}  # fmt: skip
    header, _, line = report.comparison_table({"sgr": [row]}).splitlines()
    assert line.split() == ["sgr", "90.00", "80.00", "-", "1.50", "2.00"]
    assert header.endswith("time a step, ms  memory a step, MiB")


def test_costs_in_a_table_are_over_those_of_bp_with_the_same_seed():
    def runs(seconds, memory):
        return [
            {"seed": seed, "test_accuracy": 0.9, "val_accuracy": 0.8, "sgr": None, "seconds_per_step": each,
             "step_memory_bytes": memory} for seed, each in seconds.items()
        ]  # fmt: skip

    summaries = {
        "bp": runs({0: 1.0, 1: 2.0}, 400),
        "sgr": runs({1: 6.0, 0: 4.0, 2: 9.0}, 300),
        "dni": runs({2: 1.0}, None),
    }
    header, _, *lines = report.comparison_table(summaries).splitlines()
    assert header.endswith("time a step / bp  memory a step / bp")
    assert [line.split()[-4:] for line in lines] == [
        ["0.00", "-", "1.00", "1.00"], ["3.50", "+-", "0.71", "0.75"], ["80.00", "-", "-", "-"]
    ]  # fmt: skip
