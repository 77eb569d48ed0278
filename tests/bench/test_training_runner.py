"""python -m sgr_bench.training run: processes of sgr-train, what is kept of them, and how they are stopped."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import signal
import threading
import time

import pytest
import sgr_train.cli
from sgr_bench.training import runner, runs, store, studies
from sgr_bench.training.cli import main
from sgr_bench.training.studies import Row, Study
from sgr_train.config import RunConfig, to_json
from sgr_train.flags import parse

TINY = {"train_subset": 64, "batch_size": 32, "depth": 3, "width": 12, "epochs": 2}
ROWS = (
    Row(name="layerwise", recipe="digits-layerwise"),
    Row(name="sgr, twice", recipe="digits-sgr", changes={"every": 2, "log": ("input_change",)}, against="layerwise"),
)


@studies.register("tiny")
def study() -> Study:
    return Study(title="Tiny", text="", changes=TINY, rows=ROWS, seeds=(0, 1), shown=False)


def around(tmp_path: pathlib.Path, **given: object) -> runs.Surroundings:
    return runs.Surroundings(work=tmp_path / "work", **given)


@pytest.fixture
def run(tmp_path):
    """That of the second row with the first seed."""
    return runs.runs_of("tiny", study(), ["sgr, twice"], (0,), around(tmp_path))[0]


@pytest.fixture
def call(tmp_path, capsys):
    """``call(ROW, ...)`` -> exit status, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
        status = main(["run", "tiny", *words, *folders])
        return status, *capsys.readouterr()

    return call


def kept(tmp_path: pathlib.Path) -> dict[tuple[str, int], dict]:
    found = store.load(store.path_of(tmp_path / "out", "tiny"))["runs"]
    return {(each["row"], each["seed"]): each for each in found}


def finish(each: runs.Run) -> None:
    """What the process of a run does, in this one."""
    assert sgr_train.cli.main(each.words) == 0


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``program(text)``: the shell program that is started in the place of sgr-train."""

    def write(text: str) -> None:
        monkeypatch.setattr(runner, "PROGRAM", ("sh", "-c", text, "sgr-train"))

    return write


# What is run


def test_rows_come_seed_by_seed(tmp_path):
    found = runs.runs_of("tiny", study(), [], (0, 1), around(tmp_path))
    assert [(each.row.name, each.seed) for each in found] == [(r.name, s) for s in (0, 1) for r in ROWS]
    assert found[1].folder == tmp_path / "work" / "tiny" / "sgr, twice" / "seed0"


def test_a_setting_of_the_command_line_stands_last(tmp_path):
    (found,) = runs.runs_of("tiny", study(), ["layerwise"], (0,), around(tmp_path, changes=["epochs=5"], threads=2))
    config = found.config()
    assert config.epochs == 5 and config.threads == 2 and config.device == "cpu"
    assert found.command.count("epochs=") == 1


def test_where_the_data_are_is_not_shown(tmp_path):
    (found,) = runs.runs_of("tiny", study(), ["layerwise"], (0,), around(tmp_path, data="npz:/a/b.npz"))
    assert found.config().data == "npz:/a/b.npz" and "data=npz:/a/b.npz" in found.words
    assert "npz" not in found.command and "npz" not in json.dumps(store.identity(found))


@pytest.mark.parametrize("name", studies.names())
def test_the_commands_shown_are_those_that_run(tmp_path, monkeypatch, name):
    """Typed in the root of the checkout they give the same settings, but for the folder and how often it is kept."""
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    found = studies.find(name)
    for each in runs.runs_of(name, found, [], found.seeds[:1], around(tmp_path)):
        program, *words = shlex.split(each.command)
        typed, started = parse(words), each.config()
        assert program == "sgr-train" and isinstance(typed, RunConfig)
        different = {key for key, value in to_json(typed).items() if to_json(started)[key] != value}
        assert different <= {"save_minutes", "plugin"}


@pytest.mark.parametrize("name", studies.names())
def test_rows_are_compared_with_rows(name):
    found = studies.find(name)
    rows = [row.name for row in found.rows]
    assert len(set(rows)) == len(rows) and not any("/" in row for row in rows)
    assert {row.against for row in found.rows} - {None} <= set(rows) >= set(found.drawn)


# Real runs


def test_interrupted_and_resumed_it_gives_the_same(tmp_path):
    """The run is stopped as soon as an epoch is kept, and goes on."""
    (long,) = runs.runs_of("tiny", study(), ["sgr, twice"], (0,), around(tmp_path, changes=["epochs=40"]))
    told: dict[str, dict] = {}
    options = {"jobs": 1, "seconds": None, "quantity": "test_accuracy"}
    options["told"] = lambda each, result: told.update({each.name: result})

    def stop() -> None:
        while not (long.folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert runner.run_all([long], **options) == [long] and not told
    assert 0 < len((long.folder / "metrics.jsonl").read_text().splitlines()) < 40
    assert runner.run_all([long], **options) == []
    (result,) = told.values()

    finish(whole := runs.Run(long.study, long.row, long.seed, long.changes, long.places, tmp_path / "whole"))
    expected = store.result(whole, "test_accuracy")
    timed = ("seconds", "environments", "date")
    assert {k: v for k, v in result.items() if k not in timed} == {k: v for k, v in expected.items() if k not in timed}
    assert len(result["history"]["input_change"]) == 40 and "revision" in result["environments"][0]


def test_what_is_finished_is_read(tmp_path, run, call, program):
    finish(run)
    program("exit 9")
    status, output, _ = call("sgr, twice", "--seeds", "0")
    assert status == 0
    (result,) = kept(tmp_path).values()
    summary = json.loads((run.folder / "summary.json").read_text())
    history = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert result["test_accuracy"] == pytest.approx(summary["test_accuracy"], rel=1e-5)
    assert result["history"]["loss"] == pytest.approx([row["loss"][-1] for row in history], rel=1e-5)
    assert result["history"]["sgr"] == pytest.approx([sum(row["sgr"]) / 2 for row in history], rel=1e-5)
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in history), rel=1e-5)
    changes = [json.loads(line) for line in (run.folder / "input_change.jsonl").read_text().splitlines()]
    first = [row["change"][0] for row in changes if row["epoch"] == 1]
    assert result["history"]["input_change"][0][0] == pytest.approx(sum(first) / len(first), rel=1e-5)
    assert str(tmp_path) not in json.dumps(result)
    assert "test" not in "".join(store.result(run, "val_accuracy"))  # a search does not look at it
    assert f"tiny sgr, twice seed 0: test accuracy {summary['test_accuracy']:.2%}" in output
    assert f"{100 * summary['test_accuracy']:.2f}" in output.splitlines()[-1]  # of the table


def test_what_is_stored_is_not_run_again(tmp_path, run, call, program):
    """On another machine, say: there are no folders of runs. What failed, or was another run, is."""
    program("exit 9")
    stored = {**store.identity(run), "method": "sgr", "sgr": 1.0, "train_accuracy": 0.75, "seconds": 1.0}
    store.put(tmp_path / "out", "tiny", {**stored, "test_accuracy": 0.5})
    before = kept(tmp_path)
    assert call("sgr, twice", "--seeds", "0")[0] == 0 and kept(tmp_path) == before
    assert call("sgr, twice", "--seeds", "0", "--set", "epochs=3")[0] == 1  # replaced by a failure, and so
    assert call("sgr, twice", "--seeds", "0", "--set", "epochs=3")[0] == 1  # run again
    assert call("sgr, twice", "--seeds", "1")[0] == 1


def test_a_folder_of_other_settings_is_left_alone(run, call, program):
    finish(run)
    program("exit 9")
    status, output, _ = call("sgr, twice", "--seeds", "0", "--set", "epochs=3")
    assert status == 1 and "RUN holds a run with other settings (epochs); remove it" in output


def test_settings_of_later_versions_are_as_by_default(run):
    wanted = run.config()
    found = json.loads(json.dumps(to_json(wanted)))
    assert runs.conflicts(found, wanted) == []
    del found["options"]["method"]["sgr"]["relative_floor"]
    assert runs.conflicts(found, wanted) == []
    del found["options"]["method"]["sgr"]["every"]  # which this run has another value for
    assert runs.conflicts(found, wanted) == ["every"]


# Processes


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, call, program):
    program(
        'case "$*" in *seed=1*) exit 3 ;; esac; echo begin; echo "sgr-train: $* is wrong, $OMP_NUM_THREADS"; exit 2'
    )
    status, output, _ = call("--threads", "3")
    found = kept(tmp_path)
    assert status == 1 and len(found) == 4
    failure = found["layerwise", 0]["failure"]
    assert failure.startswith("sgr-train: recipe digits-layerwise --set train_subset=64")
    assert failure.endswith("--out RUN is wrong, 3") and str(tmp_path) not in failure
    assert found["sgr, twice", 1]["failure"] == "exit status 3"
    assert "tiny sgr, twice seed 0: failed, sgr-train: recipe digits-sgr" in output


def test_time_is_up(tmp_path, call, program):
    """A process that ends as sgr-train does when it is asked to is left; one that does not care is killed."""
    program("trap 'exit 143' TERM; sleep 30 & wait")
    start = time.monotonic()
    status, output, _ = call("--minutes", "0.01", "--jobs", "2")
    assert status == 3 and time.monotonic() - start < 25
    left = (
        "left, and kept: tiny layerwise seed 1; tiny sgr, twice seed 1; tiny layerwise seed 0; tiny sgr, twice seed 0"
    )
    assert f"{left}; go on with: python -m sgr_bench.training run tiny --minutes 0.01 --jobs 2" in output
    assert not kept(tmp_path)


def test_a_process_that_does_not_end_is_killed(tmp_path, call, program, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.1)
    program("trap '' TERM; while :; do sleep 0.05; done")
    status, output, _ = call("layerwise", "--seeds", "0", "--minutes", "0.01")
    assert status == 3 and "left, and kept: tiny layerwise seed 0;" in output


def test_no_process_is_left_behind_where_a_result_cannot_be_kept(tmp_path, run, program):
    """Two runs: the first ends as soon as the other one has begun, which goes on while the result is told."""
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    first = f'until [ -e "{begun}" ]; do sleep 0.02; done; exit 3'
    second = f'trap "touch {ended}; exit" TERM; touch "{begun}"; sleep 20 & wait'
    program(f'case "$*" in *layerwise*) {first} ;; esac; {second}')

    def told(each: runs.Run, result: dict) -> None:
        raise OSError("no space left")

    pair = runs.runs_of("tiny", study(), [], (0,), around(tmp_path))
    with pytest.raises(OSError, match="no space"):
        runner.run_all(pair, jobs=2, seconds=None, quantity="test_accuracy", told=told)
    end = time.monotonic() + 10
    while not ended.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_no_more_than_jobs_run_at_once(tmp_path, call, program):
    program(
        f'echo x >>"{tmp_path}/now"; wc -l <"{tmp_path}/now" >>"{tmp_path}/most"; sleep 0.3; sed -i 1d "{tmp_path}/now"'
    )
    call("--jobs", "2")
    assert max(map(int, (tmp_path / "most").read_text().split())) == 2


def test_results_of_several_processes_are_all_kept(tmp_path):
    def put(seed: int) -> None:
        for row in range(5):
            store.put(tmp_path, "tiny", {"row": f"{row}", "seed": seed})

    threads = [threading.Thread(target=put, args=(seed,)) for seed in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(store.load(store.path_of(tmp_path, "tiny"))["runs"]) == 30
    store.put(tmp_path, "tiny", {"row": "0", "seed": 0, "failure": "new"})
    assert len(store.load(store.path_of(tmp_path, "tiny"))["runs"]) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layer"], "tiny has no row 'layer'; it has layerwise, sgr, twice"),
        (["--set", "epoch=3"], "--epoch is no flag of"),
        (["--set", "epochs=none"], "--epochs must be"),
        (["--set", "epochs"], "--set must be KEY=VALUE"),
    ],
)
def test_wrong_commands_begin_nothing(tmp_path, call, program, words, message):
    program("exit 9")
    status, output, errors = call(*words)
    assert status == 2 and not output and errors.count("\n") == 1
    assert errors.startswith("sgr_bench.training: ") and message in errors
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


def test_an_unknown_study_is_refused(tmp_path, capsys):
    assert main(["run", "tini", "--work", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "--study must be one of depth" in capsys.readouterr().err
