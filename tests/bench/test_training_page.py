"""docs/results.md: every number of it is that of a stored result, and what is not there is said to be missing."""

from __future__ import annotations

import json
import pathlib
import re
import statistics
import sys

import example_training as example
import pytest
from sgr_bench import style
from sgr_bench.results import STORED
from sgr_bench.training import figures, page, store, studies, tables
from sgr_bench.training.cli import main
from sgr_train.errors import UsageError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def stored(tmp_path):
    """Folder of made-up results of two studies."""
    return example.write(tmp_path / "in", "plainnet", "depth")


@pytest.fixture
def plainnet(stored):
    """The study, its file, and its results by row."""
    return Plainnet(stored)


class Plainnet:
    def __init__(self, folder: pathlib.Path) -> None:
        self.study, self.path = studies.find("plainnet"), store.path_of(folder, "plainnet")

    @property
    def found(self) -> tables.Results:
        return tables.by_row(self.study, store.load(self.path)["runs"])

    def change(self, row: str, seed: int, **changes: object) -> None:
        (run,) = [run for run in store.load(self.path)["runs"] if (run["row"], run["seed"]) == (row, seed)]
        store.put(self.path.parent, "plainnet", {**run, **changes})


def line(study: studies.Study, found: tables.Results, row: str) -> dict[str, str]:
    header, *lines = tables.results(study, found)
    (cells,) = [cells for cells in lines if cells[0] == row]
    return dict(zip(header, cells, strict=True))


# The table


def test_a_line_of_the_table_is_that_of_the_json(plainnet):
    for seed, accuracy, base in ((0, 0.61, 0.5), (1, 0.63, 0.54), (2, 0.65, 0.52)):
        plainnet.change("sgr", seed, test_accuracy=accuracy, seconds=3600.0 * (seed + 1))
        plainnet.change("layerwise", seed, test_accuracy=base)
    shown = line(plainnet.study, plainnet.found, "sgr")
    assert shown["paper: test acc. %"] == "72.40 +- 0.75 (Table 4, CIFAR-10, sgr)"
    assert shown["here: test acc. %"] == "63.00 +- 2.00"
    assert shown["seeds"] == "0 1 2" and shown["hours a run"] == "2"
    error = 100 * statistics.stdev([0.11, 0.09, 0.13]) / 3**0.5
    assert shown["points over"] == f"layerwise: +11.00 (s.e. {error:.2f})" == "layerwise: +11.00 (s.e. 1.15)"
    assert shown["train acc. %"] == spread(plainnet.found["sgr"], "train_accuracy", 100, 1)
    assert shown["SGR loss"] == spread(plainnet.found["sgr"], "sgr", 1, 3)
    assert line(plainnet.study, plainnet.found, "layerwise")["points over"] == "-"


def spread(runs: list[dict], name: str, scale: float, digits: int) -> str:
    values = [scale * run[name] for run in runs]
    return f"{statistics.mean(values):.{digits}f} +- {statistics.stdev(values):.{digits}f}"


def test_pairs_are_of_the_same_seed(plainnet):
    """A seed that one of the two lacks counts for neither."""
    plainnet.change("layerwise", 2, failure="out of memory")
    for seed, accuracy, base in ((0, 0.61, 0.5), (1, 0.63, 0.54), (2, 0.99, None)):
        plainnet.change("sgr", seed, test_accuracy=accuracy)
        if base:
            plainnet.change("layerwise", seed, test_accuracy=base)
    assert line(plainnet.study, plainnet.found, "sgr")["points over"] == "layerwise: +10.00 (s.e. 1.00)"


def test_differences_are_put_in_words_where_there_is_more_than_one_seed(plainnet):
    for seed, accuracy, base in ((0, 0.61, 0.5), (1, 0.63, 0.54), (2, 0.65, 0.52)):
        plainnet.change("sgr", seed, test_accuracy=accuracy)
        plainnet.change("layerwise", seed, test_accuracy=base)
    expected = "* sgr was 11.00 points (standard error 1.15) more accurate than layerwise on 3 seeds."
    assert expected in tables.in_words(plainnet.study, plainnet.found).splitlines()
    for seed in (1, 2):
        plainnet.change("sgr", seed, failure="out of memory")
    assert "* sgr was" not in tables.in_words(plainnet.study, plainnet.found)


def test_what_is_smaller_than_in_the_paper_stands_in_the_row(plainnet):
    shown = line(plainnet.study, plainnet.found, "sgr-eq35")[tables.OTHERWISE]
    assert shown == (
        "training images 10,000 (all), epochs 30 (200), amp bf16 (none), weight 0.1 (1.0), curvature none (exact), "
        "width 32 (128)"
    )
    full = {
        "recipe": "table6-resnet32-k3-sgr",
        "plugin": None,
        "changes": ["channels_last=true", "seed=1", "threads=1"],
    }
    assert tables.smaller(full) == ""
    assert (
        tables.smaller({**full, "changes": ["model=resnet14", "epochs=8"]})
        == "model resnet14 (resnet32), epochs 8 (200)"
    )


def test_another_method_has_no_number_of_the_paper(stored):
    study = studies.find("depth")
    found = tables.by_row(study, store.load(store.path_of(stored, "depth"))["runs"])
    header, *lines = tables.results(study, found)
    numbers = {cells[0]: cells[header.index("paper: test acc. %")] for cells in lines}
    assert numbers["bp-48-lr0.1"] == "37.68 (Table 7, d=47, bp)" and numbers["layerwise-48-lr0.1"] == "-"


def test_a_search_shows_validation_accuracy_alone(tmp_path):
    name = "plainnet_search"
    runs = [example.result(run, 0.5) for run in example.runs_of(name)]
    study = studies.find(name)
    for run in runs:
        del run["test_accuracy"]
    header, *lines = tables.results(study, tables.by_row(study, runs))
    assert "here: val. acc. %" in header and not any("test" in name for name in header)
    assert len(lines) == len(study.rows)
    found = tables.by_row(study, runs)
    found["rho 0.3"][1]["val_accuracy"] += 0.5
    assert tables.best(study, found) == "Best of these: rho 0.3."


# What is said of the curves


@pytest.mark.parametrize(
    ("epochs", "text"),
    [([1], "epoch 1"), ([1, 2, 3, 7], "epochs 1-3, 7"), ([2, 4], "epochs 2, 4"), ([3, 4], "epochs 3-4")],
)
def test_epochs_in_words(epochs, text):
    assert tables.ranges(epochs) == text


def test_where_the_sgr_loss_was_not_lower_is_said(plainnet):
    for seed in plainnet.study.seeds:
        for row, losses in (("layerwise", [2.0, 2.0, 2.0]), ("sgr", [1.0, 1.0, 1.0]), ("reforward", [1.9, 2.0, 2.1])):
            (run,) = [run for run in plainnet.found[row] if run["seed"] == seed]
            plainnet.change(row, seed, history={**run["history"], "sgr": losses})
    said = tables.below(plainnet.study, plainnet.found)
    assert "* The SGR loss of sgr was below that of layerwise in every epoch (seeds 0 1 2)." in said
    where = "seed 0 in epochs 2-3; seed 1 in epochs 2-3; seed 2 in epochs 2-3 (seeds 0 1 2)."
    assert f"* The SGR loss of reforward was below that of layerwise in every epoch but for {where}" in said


def test_the_changes_of_figure_3_are_those_of_the_json(plainnet):
    for seed in plainnet.study.seeds:
        (run,) = [run for run in plainnet.found["sgr"] if run["seed"] == seed]
        changes = [[-0.001, 0.002, seed - 1.0], None, [0.003, None, -1.0]]  # an epoch without, a number that is none
        plainnet.change("sgr", seed, history={**run["history"], "input_change": changes})
    shown = {row.split(" | ")[0]: row for row in tables.input_changes(plainnet.study, plainnet.found).splitlines()}
    expected = "| sgr | +1.00e-03 | +2.00e-03 | -5.00e-01 | 50% of epochs | 0% of epochs | 67% of epochs |"
    assert shown["| sgr"] == expected


def test_the_learning_rate_is_chosen_by_validation(stored):
    study = studies.find("depth")
    found = tables.by_row(study, store.load(store.path_of(stored, "depth"))["runs"])
    for accuracy, rate in ((0.3, "0.1"), (0.5, "0.03"), (0.4, "0.01")):
        found[f"bp-48-lr{rate}"][0].update(val_accuracy=accuracy, test_accuracy=1 - accuracy)
    assert tables.best_by_depth(found)["bp", 48][0] == "bp-48-lr0.03"
    figure = figures.by_depth(study, found)
    lines = {each.get_label(): each.get_xydata().tolist() for each in figure.axes[2].get_lines()}
    assert lines["bp"][2] == [2, pytest.approx(50.0)]


# Pictures


def test_curves_are_means_over_the_seeds(plainnet):
    figure = figures.reconciliation(plainnet.study, plainnet.found)
    for axis, name, scale in zip(figure.axes, ("sgr", "val_accuracy"), (1, 100), strict=True):
        lines = {each.get_label(): each.get_xydata().tolist() for each in axis.get_lines()}
        assert lines.keys() == set(plainnet.study.drawn)
        for row, points in lines.items():
            epochs = zip(*(run["history"][name] for run in plainnet.found[row]), strict=True)
            assert [y for _, y in points] == pytest.approx([scale * statistics.mean(values) for values in epochs])
    assert figure.axes[0].get_ylim()[0] == 0


def test_a_panel_a_module_with_a_line_at_zero(plainnet):
    figure = figures.input_change(plainnet.study, plainnet.found)
    assert [axis.get_title() for axis in figure.axes] == ["module 2", "module 3", "module 4"]
    for k, axis in enumerate(figure.axes):
        lines = {each.get_label(): each for each in axis.get_lines()}
        changes = [run["history"]["input_change"][0][k] for run in plainnet.found["sgr"]]
        assert lines["sgr"].get_ydata()[0] == pytest.approx(statistics.mean(changes))
        assert [0, 0] in [list(each.get_ydata()) for each in axis.get_lines()]


def test_methods_keep_their_looks():
    looks = figures.looks_of(["rho", "sgr", "other", "bp"])
    assert looks["sgr"] == (style.BLUE, "o") and looks["bp"] == (style.BLACK, "s") and len(set(looks.values())) == 4


# The page


def test_the_page_shows_every_result(stored, tmp_path):
    assert main(["page", str(stored), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / page.PAGE).read_text()
    for name in ("plainnet", "depth"):
        study, runs = studies.find(name), store.load(store.path_of(stored, name))["runs"]
        for cells in tables.results(study, tables.by_row(study, runs)):
            assert f"| {' | '.join(cells)} |" in text
        assert all(run["command"] in text for run in runs if run["seed"] == 0)
    assert (
        "| all | 2026-01-02 | 10,000 / 5,000 / 10,000 | 12,345 | Example CPU, AVX2 | 1 | 2.14.1 | 0123456789ab |"
        in text
    )
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    pictures = (tmp_path / "out" / page.PICTURES).iterdir()
    assert sorted(shown) == sorted(f"{page.PICTURES}/{path.name}" for path in pictures) and len(shown) == 3
    assert "**Missing:** the study local_bp has not been run." in text and "the study quick" not in text


def test_what_failed_or_is_missing_is_named(plainnet, tmp_path):
    runs = [run for run in store.load(plainnet.path)["runs"] if run["row"] != "reforward"]
    plainnet.path.write_text(json.dumps({"study": "plainnet", "runs": runs}))
    plainnet.change("sgr", 1, failure="module 3: the loss is not finite")
    text = page.write(plainnet.path.parent, tmp_path).read_text()
    assert "**Missing:** reforward" in text
    assert "**Failed:**\n\n* sgr seed 1: module 3: the loss is not finite" in text
    assert line(plainnet.study, plainnet.found, "sgr")["seeds"] == "0 2, without 1"


def test_the_page_of_this_project_is_that_of_its_results(tmp_path):
    page.write(STORED / "training", tmp_path)
    kept = ROOT / "docs"
    assert (tmp_path / page.PAGE).read_text() == (kept / page.PAGE).read_text()
    there = {path.name for path in (kept / page.PICTURES).iterdir()} if (kept / page.PICTURES).exists() else set()
    assert {path.name for path in (tmp_path / page.PICTURES).iterdir()} == there


@pytest.mark.parametrize("quantity", ["test_accuracy", "train_accuracy", "sgr", "seconds", "parameters"])
def test_another_number_is_another_table(plainnet, quantity):
    before = shown_of(plainnet)
    (run,) = [run for run in plainnet.found["sgr"] if run["seed"] == 1]
    plainnet.change("sgr", 1, **{quantity: run[quantity] * 1.1 if quantity != "parameters" else 7})
    assert shown_of(plainnet) != before


def shown_of(plainnet: Plainnet) -> tuple:
    found = plainnet.found
    return tables.results(plainnet.study, found), tables.origins(found)


def test_a_changed_page_is_noticed(plainnet, tmp_path, monkeypatch):
    """By the test of the page of this project, with another project in its place."""
    root = tmp_path / "project"
    page.write(plainnet.path.parent, root / "docs")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", root)
    monkeypatch.setattr(sys.modules[__name__], "STORED", tmp_path)
    plainnet.path.parent.rename(tmp_path / "training")
    test_the_page_of_this_project_is_that_of_its_results(tmp_path / "again")
    text = (root / "docs" / page.PAGE).read_text()
    (root / "docs" / page.PAGE).write_text(text.replace("| 72.40", "| 72.50", 1))
    with pytest.raises(AssertionError):
        test_the_page_of_this_project_is_that_of_its_results(tmp_path / "again")


# What is refused


def test_seeds_of_one_row_have_the_same_settings(plainnet, tmp_path, capsys):
    plainnet.change("sgr", 1, changes=["epochs=3"])
    assert main(["page", str(plainnet.path.parent), "--out", str(tmp_path)]) == 2
    said = "sgr_bench.training: plainnet.json: the seeds of row sgr differ in more than their seed; run it again\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"study": "depth", "runs": []}', '{"study": "plainnet", "runs": [{}]}']
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = store.path_of(tmp_path, "plainnet")
    path.write_text(content)
    with pytest.raises(UsageError, match=f"{path} is no result of sgr_bench.training"):
        page.write(tmp_path, tmp_path)


@pytest.mark.parametrize("name", ["test_accuracy", "history", "recipe"])
def test_a_result_that_lacks_something_is_refused(plainnet, tmp_path, name):
    (run,) = [run for run in plainnet.found["sgr"] if run["seed"] == 1]
    store.put(plainnet.path.parent, "plainnet", {key: value for key, value in run.items() if key != name})
    with pytest.raises(UsageError, match=f"plainnet.json: row sgr seed 1 lacks {name}; run it again"):
        page.write(plainnet.path.parent, tmp_path)


def test_a_study_that_nobody_knows_is_refused(tmp_path):
    store.path_of(tmp_path, "plane").write_text("{}")
    with pytest.raises(UsageError, match="plane.json is of no study"):
        page.write(tmp_path, tmp_path)
