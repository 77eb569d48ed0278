"""The report of stored results: its tables and pictures show what the JSON says, and its comparison knows noise."""

from __future__ import annotations

import copy
import json
import pathlib
import re

import example_results
import pytest
from sgr_bench import compare, plots, stored, style, tables, ways, zoo
from sgr_bench.cli import main
from sgr_bench.results import STORED


@pytest.fixture
def results():
    return example_results.results()


@pytest.fixture
def parts(results, tmp_path):
    """As the report reads them."""
    return stored.read(example_results.write(tmp_path / "in", results))["cpu"]


def cells(table: str) -> list[dict[str, str]]:
    """Rows of a Markdown table by the names of its columns."""
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def find(rows: list[dict], **wanted) -> dict:
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return row


SMALL_LOSS = {"op": "sgr_loss", "mode": "forward + backward", "shape": [128, 1024], "dtype": "float32"}
WHOLE_STEP = {"network": "resnet50", "count": 3, "module": None}


# The comparison


def timed(ratio: float = 1.0, spread: float = 0.01, repeats: int = 11, **machine) -> dict:
    interval = {"low": ratio * (1 - spread), "high": ratio * (1 + spread)}
    return {"seconds": ratio, **interval, "repeats": repeats, "machine": {**example_results.MACHINE, **machine}}


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (timed(1.0), "within noise"),
        (timed(1.2), "slower"),
        (timed(0.8), "faster"),
        (timed(1.2, spread=0.2), "within noise"),  # the intervals overlap
        (timed(0.8, spread=0.3), "within noise"),
        (timed(1.04, spread=0.001), "within noise"),  # not beyond the threshold
        (timed(0.96, spread=0.001), "within noise"),
        (timed(1.2, repeats=2), "too few repeats"),
        (timed(1.2, threads=4), "other machine"),
        (timed(1.2, name="Another CPU"), "other machine"),
        (timed(1.2, torch="2.15.0"), "other machine"),
        (timed(1.2, revision="another"), "slower"),  # that is what is compared
    ],
)
def test_verdict_on_a_time(new, verdict):
    assert compare.time_verdict(timed(1.0), new) == verdict


@pytest.mark.parametrize(
    ("new", "verdict"), [(1000, "same memory"), (1004, "same memory"), (1006, "more memory"), (990, "less memory")]
)
def test_verdict_on_memory(new, verdict):
    assert compare.memory_verdict({"peak_bytes": 1000}, {"peak_bytes": new}) == verdict


def slow_down(results: dict) -> None:
    row = find(results["micro"]["rows"], provider="cpu", **SMALL_LOSS)
    for name in ("seconds", "low", "high"):
        row[name] *= 1.5


def grow(results: dict) -> None:
    find(results["memory"]["rows"], method="directional", **WHOLE_STEP)["peak_bytes"] += 10**8


def report(tmp_path: pathlib.Path, old: dict, new: dict, capsys) -> tuple[int, str, str]:
    """Exit status, output and report.md of a comparison."""
    folders = [str(example_results.write(tmp_path / name, r)) for name, r in (("old", old), ("new", new))]
    status = main(["report", folders[1], "--out", str(tmp_path / "out"), "--against", folders[0]])
    return status, capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()


# Parts without pictures, as these take time.
PLAIN = ("cuts", "gradients", "compiled", "loader")


@pytest.fixture
def plain(results):
    return {part: results[part] for part in PLAIN}


def test_the_same_results_are_no_regression(plain, tmp_path, capsys):
    status, output, page = report(tmp_path, plain, plain, capsys)
    assert status == 0
    assert output == f"{tmp_path / 'out' / 'report.md'}\n"
    assert "6 within noise, 1 same memory" in page
    assert "### Regressions\n\nNone." in page


def test_a_regression_ends_with_status_1(plain, tmp_path, capsys):
    new = copy.deepcopy(plain)
    for name in ("seconds", "low", "high"):
        new["compiled"]["rows"][1][name] *= 1.5
    status, output, page = report(tmp_path, plain, new, capsys)
    assert status == 1
    assert "slower: cpu, compiled: resnet50, batch 4, eager, directional, time, ms: 800 -> 1200" in output
    assert "| cpu, compiled: resnet50, batch 4, eager, directional | time, ms | 800 | 1200 | 1.500 | slower |" in page


def test_on_another_machine_only_memory_is_compared(plain, tmp_path, capsys):
    new = copy.deepcopy(plain)
    new["compiled"]["rows"][1]["seconds"] *= 10
    new["cuts"]["rows"][0]["peak_bytes"] *= 2
    for result in new.values():
        result["machine"]["threads"] = 8
    status, output, page = report(tmp_path, plain, new, capsys)
    assert status == 1
    assert output.count("\n") == 2 and "more memory: cpu, cuts: resnet50" in output
    assert "**The machines differ, so times are not compared:** threads: 2 before, 8 now." in page
    assert "6 other machine" in page


def test_a_row_is_compared_with_that_of_the_same_shape_and_method(results, tmp_path):
    old, new = copy.deepcopy(results), results
    slow_down(new)
    grow(new)
    changes = compare.compare(*({"cpu": stored_parts(tmp_path / n, r)} for n, r in (("old", old), ("new", new))))
    verdicts = {change.what: change.verdict for change in changes.regressions}
    name = "cpu, micro: sgr_loss, forward + backward, cpu, shape [128, 1024], float32, wall"
    assert verdicts.pop(name) == "slower"
    assert list(verdicts.values()) == ["more memory"]
    assert "resnet50, batch 256, image_size 224, count 3" in next(iter(verdicts))
    assert not changes.added and not changes.vanished and not changes.machines


def stored_parts(folder: pathlib.Path, results: dict) -> dict:
    return stored.read(example_results.write(folder, results))["cpu"]


def test_new_and_vanished_rows_are_listed(plain, tmp_path, capsys):
    new = copy.deepcopy(plain)
    gone = new["compiled"]["rows"].pop()
    new["cuts"]["rows"].append({**new["cuts"]["rows"][0], "network": "swin_t"})
    status, _, page = report(tmp_path, plain, new, capsys)
    assert status == 0
    assert "### New rows\n\n* cpu, cuts: swin_t, batch 32, count 3, directional\n" in page
    assert f"### Vanished rows\n\n* cpu, compiled: resnet50, batch 4, {gone['method']}\n" in page


def test_unknown_memory_is_not_compared(results, tmp_path):
    unknown = {"step": results["step"]}
    known = copy.deepcopy(unknown)
    compiled = [row for row in known["step"]["rows"] if row["peak_bytes"] is None]
    for row in compiled:
        row["peak_bytes"] = 1000
    sets = [{"cpu": stored_parts(tmp_path / name, r)} for name, r in (("unknown", unknown), ("known", known))]
    for old, new in (sets, sets[::-1]):
        changes = compare.compare(old, new).changes
        assert len(changes) == 2 * len(known["step"]["rows"]) - len(compiled)
    assert compiled


# Tables


def test_speed_ups_are_those_of_the_json(results):
    rows = results["micro"]["rows"]
    ours = find(rows, provider="cpu", **SMALL_LOSS)
    find(rows, provider="eager", **SMALL_LOSS)["seconds"] = 7.77 * ours["seconds"]
    ours.update(gbps=12.34, fraction=0.567)
    table = cells(tables.micro(results["micro"]))
    line = find(table, operator="sgr_loss, forward + backward", shape="(128, 1024)", dtype="float32")
    assert line["over eager"] == "7.77x" and line["over reference"] == "3.10x" and line["over torch.compile"] == "1.70x"
    assert line["achieved"] == "12.34 GB/s" and line["of the limit"] == "57%"
    assert float(line["time, ms"]) == pytest.approx(1e3 * ours["seconds"], rel=1e-3)
    assert len(table) == sum(row["provider"] == "cpu" for row in rows)
    residual = find(table, operator="sgr_residual, forward", shape="(128, 1024)", dtype="float32")
    assert residual["over eager"] == ""


def test_times_with_and_without_launches_are_marked(results):
    find(results["micro"]["rows"], provider="eager", **SMALL_LOSS)["timed"] = "events"
    table = cells(tables.micro(results["micro"]))
    line = find(table, operator="sgr_loss, forward + backward", shape="(128, 1024)", dtype="float32")
    assert line["over eager"] == "4.20x *" and line["over reference"] == "3.10x"


def test_a_block_is_compared_with_its_products(results):
    block = {"op": "linear_relu_sgr", "mode": "exact", "shape": [512, 2048, 2048], "dtype": "float32"}
    ours = find(results["micro"]["rows"], provider="cpu", **block)
    find(results["micro"]["rows"], provider="library GEMM", **block)["seconds"] = ours["seconds"] / 1.23
    find(results["micro"]["rows"], provider="Algorithm 1", **block)["seconds"] = ours["seconds"] * 4.56
    table = cells(tables.blocks(results["micro"]))
    line = find(table, block="linear_relu_sgr, exact", shape="(512, 2048, 2048)", dtype="float32")
    assert line["time over its bare products"] == "1.23x" and line["speed-up over Algorithm 1"] == "4.56x"
    assert {row["block"] for row in table} == {"linear_relu_sgr, none", "linear_relu_sgr, exact"}


def test_steps_are_relative_to_plain_learning_and_to_bp_of_the_same_setting(results):
    rows = results["step"]["rows"]
    plain, ours, bp = (find(rows, method=m, **WHOLE_STEP) for m in ("plain local", "directional", "BP"))
    ours.update(seconds=3.0, peak_bytes=700)
    plain.update(seconds=2.0, peak_bytes=500)
    bp.update(seconds=1.5, peak_bytes=1400)
    table = cells(tables.step(results["step"]).replace("|  |  |", "| name | what |", 1))
    name = "resnet50, batch 32, 224 px, K = 3"
    shown = {line["what"]: line["directional"] for line in table if line["name"] == name}
    assert shown["whole step: time over plain local"] == "1.50x"
    assert shown["whole step: memory over plain local"] == "1.40x"
    assert shown["whole step: time over BP"] == "2.00x"
    assert shown["whole step: memory over BP"] == "0.50x"
    assert shown["module 2: time over plain local"] == "2.00x" and "module 2: time over BP" not in shown
    compiled = [line["Algorithm 1, compiled"] for line in table if line["what"] == "whole step: memory over BP"]
    assert set(compiled) == {""}  # not known on a CPU


def test_bp_is_that_of_the_same_batch_and_precision(results):
    rows = results["step"]["rows"]
    ours = find(rows, method="directional", **WHOLE_STEP)
    half = [{**row, "precision": "bfloat16", "seconds": row["seconds"] / 4} for row in rows]
    other = [{**row, "batch": 64, "seconds": 2 * row["seconds"]} for row in rows]
    bp = stored.back_propagation([*half, *other, *rows], ours)
    assert bp == find(rows, method="BP", **WHOLE_STEP)


def test_whole_steps_show_time_and_memory(results):
    rows = results["step"]["rows"]
    whole = {"network": "resnet50", "count": 3, **WHOLE_STEP}
    find(rows, method="BP", **whole).update(seconds=2.0, peak_bytes=1000)
    find(rows, method="directional", **whole).update(seconds=3.5, peak_bytes=480)
    find(rows, method="Algorithm 1, compiled", **whole).update(seconds=5.0, peak_bytes=None)
    table = cells(tables.whole_steps(results["step"]).replace("time, memory over BP", "name", 1))
    column = next(name for name in table[0] if name.startswith("resnet50") and name.endswith("K = 3"))
    assert find(table, name="directional")[column] == "1.75x, 0.48x"
    assert find(table, name="Algorithm 1, compiled")[column] == "2.50x"
    assert len(table[0]) == 1 + len({(row["network"], row["count"]) for row in rows})


def test_memory_stands_beside_the_paper(results):
    find(results["memory"]["rows"], method="directional", **WHOLE_STEP)["over_bp"] = 0.4321
    lines = [line[2:-2].split(" | ") for line in tables.memory(results["memory"]).splitlines()]
    columns = {(name, count): i for i, (name, count) in enumerate(zip(lines[0], lines[2], strict=True))}
    shown = {line[0]: line[columns["resnet50, batch 256, 224 px", "3"]] for line in lines[2:]}
    assert shown["directional"] == "43.2%" and shown["SGR in the paper"] == "71.4%"
    assert shown["BP + checkpointing"] == "42.0%" and shown["measured by"] == "fake tensors"
    paper = next(line for line in lines if line[0] == "SGR in the paper")
    assert paper[columns["resnet32, batch 256, 224 px", "16"]].strip() == ""
    modules = cells(tables.memory_of_modules(results["memory"]).replace("|  |", "| name |", 1))
    assert find(modules, name="resnet50, batch 256, 224 px, K = 3", module="3")["directional"] == "1.18"


def test_gradients_of_every_precision_share_a_line(results):
    rows = results["gradients"]["rows"]
    trained = {"network": "vit", "when": "trained", "precision": "bfloat16"}
    for order, error in ((1, 0.98765), (2, 0.45678)):
        find(rows, engine="directional", order=order, **trained).update(relative_error=error)
    find(rows, engine="autograd", **trained).update(relative_error=None)
    lines = tables.gradients(results["gradients"]).splitlines()
    assert "spread | float32: order 1 | float32: order 2 | float32: autograd | bfloat16: order 1 |" in lines[0]
    assert "| vit, module 2 | trained | 27 | 0.0231 | 0.0115 | 0.0321 | 0.9877 | 0.4568 | not finite |" in lines
    assert len(lines) == 2 + 4


def test_other_tables(results):
    assert "| copy | float32 | 268435456 | 12.78 | 21 GB/s |" in tables.roofline(results["roofline"])
    assert "| resnet50 | 32 | 3 | directional | 3, 6 | 954 |" in tables.cuts(results["cuts"])
    assert "| resnet50, batch 4 | 61.2 | 0.400 | 0.800 | 0.300 | 0.600 |" in tables.compiled(results["compiled"])
    assert "| 20000 | 112 | 128 | 2 | 4000 | 3200 |" in tables.loader(results["loader"])
    assert set(tables.TABLES) == set(stored.IDENTITY)


# Pictures


def points_of(axis) -> list[tuple[float, float]]:
    return [tuple(container.lines[0].get_xydata()[0]) for container in axis.containers]


def test_every_method_has_a_labelled_point(parts):
    (figure,) = plots.time_and_memory(parts).values()
    assert [axis.get_title() for axis in figure.axes][:2] == [
        "resnet50, batch 32, 224 px, K = 2",
        "vit_s_16, batch 32, 224 px, K = 3",
    ]
    assert len(figure.axes) == len(example_results.NETWORKS)
    for axis, network in zip(figure.axes, example_results.NETWORKS, strict=True):
        rows = [r for r in parts["step"]["rows"] if r["network"] == network and r["module"] is None]
        rows = [row for row in rows if row["count"] == rows[0]["count"]]
        texts = [text.get_text() for text in axis.texts if text.get_text()]
        unknown = "Algorithm 1, compiled\n(memory unknown)"
        assert sorted(texts) == sorted(r["method"] if r["peak_bytes"] else unknown for r in rows)
        bp = find(rows, method="BP")
        known = [row for row in rows if row["peak_bytes"]]
        expected = [(r["seconds"] / bp["seconds"], r["peak_bytes"] / bp["peak_bytes"]) for r in known]
        assert sorted(points_of(axis)) == [pytest.approx(point) for point in sorted(expected)]


def test_labels_cover_neither_each_other_nor_points(parts):
    (figure,) = plots.time_and_memory(parts).values()
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axis.texts if text.get_text()]
        frame = axis.bbox.padded(1)
        assert all(frame.contains(*corner) for box in boxes for corner in (box.p0, box.p1))
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        places = axis.transData.transform(points_of(axis))
        assert not any(box.contains(*place) for box in boxes for place in places)


def test_speed_ups_are_drawn_by_shape(parts):
    figures = plots.speed_ups(parts)
    assert sorted(figures) == sorted({f"speed-up-{op}" for op, _ in example_results.OPERATORS})
    axis = figures["speed-up-sgr_loss"].axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
    shapes = len(example_results.OPERATORS["sgr_loss", "forward + backward"][0])
    assert lines["cpu over eager"] == pytest.approx(shapes * [4.2])
    assert lines["cpu over torch.compile"] == pytest.approx(shapes * [1.7])
    assert [label.get_text() for label in axis.get_xticklabels()][-2:] == ["64x200704", "1x50M"]


def test_roofline_has_the_measured_limits(parts):
    memory, compute = plots.roofline(parts)["roofline"].axes
    assert memory.get_title() == "cpu kernels limited by memory"
    assert 21.0 in [line.get_ydata()[0] for line in memory.get_lines()]  # the largest copy, not the one in the cache
    highest = {max(line.get_ydata()) for line in compute.get_lines()}
    assert {0.17, 0.29} <= highest
    points = [tuple(point) for line in memory.get_lines() for point in line.get_xydata()]
    row = find(parts["micro"]["rows"], provider="cpu", **SMALL_LOSS)
    assert (row["bytes"] / 1e6, row["gbps"]) in points


def test_memory_is_drawn_beside_the_paper(parts):
    figure = plots.memory_by_count(parts)["memory-by-modules"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert [x for x, _ in lines["directional"]] == [2, 3]
    assert [y for _, y in lines["SGR in the paper"]] == pytest.approx([83.4, 71.4])
    row = find(parts["memory"]["rows"], method="directional", **WHOLE_STEP)
    assert lines["directional"][1][1] == pytest.approx(100 * row["over_bp"])


def curves(axis) -> dict[str, list[tuple[float, float]]]:
    return {c.get_label(): [tuple(point) for point in c.lines[0].get_xydata()] for c in axis.containers}


def test_time_is_drawn_by_one_size_while_the_other_stays(parts):
    by_n = plots.scaling_with_size(parts)["scaling-with-n"].axes[0]
    by_batch = plots.scaling_with_batch(parts)["scaling-with-B"].axes[0]
    assert by_n.get_title() == "sgr_loss, forward + backward\nfloat32, B = 128"
    assert by_batch.get_title() == "sgr_loss, forward + backward\nfloat32, n = 1024"
    assert [x for x, _ in curves(by_n)["cpu"]] == [64, 1024, 16384]
    assert [x for x, _ in curves(by_batch)["eager"]] == [8, 128, 1024]
    row = find(parts["micro"]["rows"], provider="cpu", **SMALL_LOSS)
    point = pytest.approx(1e3 * row["seconds"])
    assert curves(by_n)["cpu"][1][1] == point and curves(by_batch)["cpu"][1][1] == point
    assert by_n.get_xscale() == by_n.get_yscale() == "log"


def test_depths_of_one_network_are_one_curve(parts):
    axes = plots.scaling_with_modules(parts)["scaling-with-modules"].axes
    titles = [axis.get_title().split(",")[0] for axis in axes]
    assert titles == ["resnet50", "resnet32", "plainnet"]
    assert [x for x, _ in curves(axes[1])["directional"]] == [2, 3, 4, 8, 16]
    assert [x for x, _ in curves(axes[2])["fused"]] == [4, 8, 16]


def test_every_method_of_the_benchmarks_has_a_colour():
    looks = [style.method_style(method) for method in (*ways.WAYS, "Algorithm 1, compiled", "of a plug-in")]
    assert len({tuple(look.values()) for look in looks}) == len(looks)


def test_methods_of_plug_ins_are_drawn_with_the_others(results, tmp_path):
    renamed = ({**row, "method": row["method"].replace("greedy", "guessing")} for row in results["step"]["rows"])
    rows = [row for row in renamed if row["network"] == "resnet50"]
    (figure,) = plots.time_and_memory({"step": {**results["step"], "rows": rows}}).values()
    assert "guessing" in [text.get_text() for text in figure.axes[0].texts]
    example_results.write(tmp_path, {"step": {**results["step"], "rows": rows}})
    assert stored.read(tmp_path)["cpu"]["step"]["rows"]


def test_exact_back_propagation_and_the_frontier_are_drawn(parts):
    (figure,) = plots.time_and_memory(parts).values()
    axis = figure.axes[0]
    lines = {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in axis.get_lines()}
    exact = lines["exact back-propagation"]
    assert exact == [(1.0, 1.0), pytest.approx(example_results.METHODS["BP + checkpointing"])]
    edge = lines["frontier: nothing is faster and smaller"]
    assert edge == stored.frontier(points_of(axis)) and 1 < len(edge) < len(points_of(axis))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)[-2:]


def test_the_frontier_has_what_nothing_beats():
    points = [(1.0, 1.0), (1.3, 0.4), (1.1, 0.5), (2.0, 0.4), (1.1, 0.6), (3.0, 0.3)]
    assert stored.frontier(points) == [(1.0, 1.0), (1.1, 0.5), (1.3, 0.4), (3.0, 0.3)]


@pytest.mark.parametrize("part", ["step", "memory", "compiled"])
def test_stored_rows_are_of_networks_and_methods_that_there_are(part):
    rows = [row for parts in stored.read(STORED).values() for row in parts.get(part, {"rows": []})["rows"]]
    assert rows and {zoo.network_name(name) for name in {row["network"] for row in rows}}
    if part != "compiled":
        names = {row["method"].removesuffix(", captured") for row in rows}
        assert names <= {*ways.ways("cuda"), "Algorithm 1, compiled"}


# The page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Folder of a report on everything."""
    folder = tmp_path_factory.mktemp("report")
    example_results.write(folder / "in", example_results.results())
    (folder / "in" / "digits.json").write_text("{}")
    assert main(["report", str(folder / "in"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_pictures_are_written_and_shown(page):
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (page / "report.md").read_text())
    assert sorted(shown) == sorted(path.name for path in page.glob("*.png"))
    assert len(shown) == 10
    for path in page.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and 10_000 < path.stat().st_size < 150_000


def test_the_page_names_machine_commands_and_tables(page, results):
    text = (page / "report.md").read_text()
    assert "| micro | 2026-01-02 | cpu | Example CPU | 2 | 3.11.2 | 2.14.1 | 0.1.0 | 0123456789ab |" in text
    for part, result in results.items():
        assert result["command"] in text
        assert tables.TABLES[part](result) in text
    assert tables.blocks(results["micro"]) in text and tables.memory_of_modules(results["memory"]) in text
    assert "Not results of sgr-bench, and not read: digits.json." in text
    assert "Missing" not in text and "not drawn" not in text


def test_missing_parts_are_named(results, tmp_path):
    micro = {**results["micro"], "rows": results["micro"]["rows"][-1:]}  # nothing to compare it with
    folder = example_results.write(tmp_path / "in", {"micro": micro})
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    missing = "roofline, step, memory, cuts, gradients, compiled, loader"
    assert f"**Missing:** no results of {missing} on this device." in text
    assert "*Roofline:* not drawn for want of the part roofline." in text
    assert "*Speed-up:* not drawn, the results have nothing to compare." in text


def test_what_is_not_defined_is_named_in_the_report(results, tmp_path):
    results["cuts"]["undefined"] = [{"undefined": "resnet32, K=3, fused: no chain of layers"}]
    folder = example_results.write(tmp_path / "in", {"cuts": results["cuts"]})
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert (
        "Not defined, so that there is nothing to measure:\n\n* cuts: resnet32, K=3, fused: no chain of layers\n"
        in text
    )


def test_what_failed_is_named_in_the_report(results, tmp_path):
    results["micro"]["failures"] = [{"failure": "cuda: sgr_loss forward 8x64 float32 is wrong"}]
    folder = example_results.write(tmp_path / "in", results)
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "**Wrong, or failed, and not measured:**\n\n* micro: cuda: sgr_loss forward 8x64 float32 is wrong\n" in text


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["rows"][2].pop("low"), "row 3 lacks low"),
        (lambda r: r["rows"][0].pop("command"), "row 1 lacks command"),
        (lambda r: r["machine"].pop("threads"), "row 1 lacks machine: threads"),
        (lambda r: r["rows"][1].update(seconds=-1.0), "row 2: seconds is -1.0, expected a number above 0"),
        (lambda r: r["rows"][1].update(high=float("nan")), "row 2: high is nan"),
        (
            lambda r: r["rows"].append(r["rows"][0]),
            "two rows of one thing, compiled: resnet50, batch 4, eager, plain local",
        ),
        (lambda r: r.update(part="step"), "holds the part 'step' of the device 'cpu'"),
        (lambda r: r["machine"].update(device="cuda"), "holds the part 'compiled' of the device 'cuda'"),
        (lambda r: r.pop("date"), "not a result of sgr-bench"),
        (lambda r: r.pop("command"), "not a result of sgr-bench"),
        (lambda r: r.update(rows=[1]), "not a result of sgr-bench"),
    ],
)
def test_malformed_results_are_refused_by_name(results, tmp_path, capsys, change, message):
    change(results["compiled"])
    (tmp_path / "compiled-cpu.json").write_text(json.dumps(results["compiled"]))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'compiled-cpu.json'}" in error and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("micro", {"provider": "magic"}, "the provider is 'magic', expected one of default, cpu, triton, cuda"),
        ("micro", {"bound": "luck"}, "the bound is 'luck', expected one of memory, compute"),
        ("roofline", {"dtype": "int4"}, "the dtype is 'int4'"),
    ],
)
def test_unknown_names_are_refused(results, tmp_path, part, change, message):
    results[part]["rows"][0].update(change)
    with pytest.raises(stored.BadResult, match=message):
        stored.read(example_results.write(tmp_path, {part: results[part]}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("step-cpu.json", "{", "not a result of sgr-bench"),
        ("step-cpu.json", "[]", "not a result of sgr-bench"),
        ("residual-cpu.json", "{}", "there is no part 'residual'"),
        ("digits.json", "{}", "no file PART-DEVICE.json in this folder"),
    ],
)
def test_other_files_are_no_results(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(stored.BadResult, match=message):
        stored.read(tmp_path)


def test_a_folder_to_compare_with_has_to_hold_results(plain, tmp_path, capsys):
    folder = example_results.write(tmp_path / "in", plain)
    assert main(["report", str(folder), "--out", str(tmp_path), "--against", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no file PART-DEVICE.json in this folder" in capsys.readouterr().err
