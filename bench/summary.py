"""The short tables of the README: ``python -m sgr_bench.summary`` prints them from the stored results."""

from __future__ import annotations

import json
from typing import Any

from sgr_train import report

from . import results, tables
from .stored import PUBLISHED, Row, back_propagation, one
from .training import store, studies
from .training import tables as training

WAYS = (PUBLISHED, "directional", "directional, every 4th", "plain local", "BP + checkpointing")
ON_A_GPU = [("resnet50", 3), ("vit_s_16", 3), ("resnet32", 16)]  # networks, and modules they are cut into
ON_A_CPU = [("resnet50", 3)]
FEW = 3


def stored(name: str) -> dict[str, Any]:
    return results.load(results.STORED / f"{name}.json")


def whole_steps() -> list[tuple[str, dict[str, Row], Row]]:
    """For each network its description, the rows of its whole steps by method, and that of back-propagation."""
    found = []
    for file, networks in ("step-cuda", ON_A_GPU), ("step-cpu", ON_A_CPU):
        result = stored(file)
        rows = [row for row in result["rows"] if row["module"] is None]
        for network, count in networks:
            by_method = {row["method"]: row for row in rows if (row["network"], row["count"]) == (network, count)}
            row = by_method[PUBLISHED]
            name = f"{tables.setting(row)}, K = {count}, {device(result)}"
            found.append((name, by_method, back_propagation(rows, row)))
    return found


def device(result: dict[str, Any]) -> str:
    """In the words of a table, as short as they are clear."""
    return "H100" if "H100" in result["machine"]["name"] else "CPU"


def against_algorithm_1() -> str:
    """Time and memory of ``engine="directional"`` over those of Algorithm 1, in half a sentence."""
    parts = []
    for name, by_method, _ in whole_steps():
        if by_method[PUBLISHED]["count"] == FEW:
            parts.append(f"{', '.join(_ratios(by_method['directional'], by_method[PUBLISHED]))} ({name})")
    return "; ".join(parts)


def costs() -> str:
    """Time and memory of all ways over back-propagation."""
    lines = [["time, memory of a step over back-propagation", *WAYS]]
    for name, by_method, base in whole_steps():
        lines.append([name, *(", ".join(_ratios(by_method[way], base)) for way in WAYS)])
    return tables.markdown(lines)


def _ratios(row: Row, base: Row) -> tuple[str, str]:
    return tuple(f"{row[key] / base[key]:.2f}x" for key in ("seconds", "peak_bytes"))


def findings() -> str:
    """What was measured, a line each."""
    lines = [_digits(), _bp_free(), _engines(), _gradients(), _memory(), _exact(), *_kernels(), _captured()]
    return tables.markdown([["what", "found", "bench/results"], *lines])


def _digits() -> list[str]:
    result = json.loads((results.STORED / "digits.json").read_text())
    accuracies = [report.spread([run["test_accuracy"] for run in runs], 100) for runs in result["runs"].values()]
    paired = result["sgr_minus_layerwise"]
    over = f"{100 * paired['accuracy_difference']:+.2f} (s.e. {100 * paired['standard_error']:.2f})"
    names = ", ".join(result["runs"])
    what = f"digits, {paired['seeds']} seeds, test accuracy in %: {names}; sgr over layerwise"
    return [what, f"{', '.join(accuracies)}; {over}", "digits.json"]


def _bp_free() -> list[str]:
    study = studies.find("plainnet")
    found = training.by_row(study, store.load(store.path_of(results.STORED / "training", "plainnet"))["runs"])
    rows = {row.name: row for row in study.rows}
    parts = [f"layerwise {report.spread([run['test_accuracy'] for run in found['layerwise']], 100)}"]
    weight, rho = rows["sgr"].changes["weight"], rows["sgr-rho"].changes["rho"]
    for name, label in ("sgr", f"lambda {weight}"), ("sgr-rho", f"rho {rho}"):
        parts.append(f"{label}, over {training.difference(study, found, rows[name])}")
    first, seeds = found["layerwise"][0], len(found["layerwise"])
    what = f"BP-free training on {first['images']['train']:,} images of CIFAR-10, {seeds} seeds, test accuracy in %"
    return [f"{what} ([more, and what is missing](docs/results.md))", "; ".join(parts), "training/plainnet.json"]


def _engines() -> list[str]:
    runs = json.loads((results.STORED / "engines.json").read_text())["runs"]
    accuracies = [report.spread([run["test_accuracy"] for run in each], 100) for each in runs.values()]
    first, *others = next(iter(runs.values()))
    images = first["images"]["train"]
    what = f"ResNet-32, K = {first['modules']}, {images:,} images of CIFAR-10, {1 + len(others)} seeds"
    return [f"{what}, test accuracy in %: {', '.join(runs)}", ", ".join(accuracies), "engines.json"]


def _gradients() -> list[str]:
    rows = stored("gradients-cpu")["rows"]
    precisions = ("float32", "TF32", "bfloat16")
    case = {"network": "vit_s_16", "module": 3, "when": "trained"}
    errors = []
    for precision in precisions:
        ours = one(rows, **case, precision=precision, engine="directional", order=1)
        theirs = one(rows, **case, precision=precision, engine="autograd")
        errors.append(f"{ours['relative_error']:.4f} ({theirs['relative_error']:.4f})")
    names = ", ".join(precisions).replace("TF32", "emulated TF32")
    floor = f"relative_floor {ours['relative_floor']}"
    what = f"error of the SGR gradient of a trained ViT-S/16, {floor}, in {names} (that of Algorithm 1 there)"
    return [what, ", ".join(errors), "gradients-cpu.json"]


def _memory() -> list[str]:
    rows = [row for row in stored("memory-cpu")["rows"] if row["network"] == "resnet50" and row["module"] is None]
    ways = ("directional", PUBLISHED, "BP + checkpointing")
    shares = [min(row["over_bp"] for row in rows if row["method"] == way and row["count"] in (1, 3)) for way in ways]
    what = f"peak memory of ResNet-50, batch {rows[0]['batch']}, float32, K = 3, of that of BP, each with its best cuts"
    what += f": {', '.join(ways)}"
    return [what, ", ".join(f"{share:.1%}" for share in shares), "memory-cpu.json"]


def _exact() -> list[str]:
    ways, parts, precisions = (PUBLISHED, "autograd", "directional"), [], ("bfloat16", "float32")
    for precision in precisions:
        rows = [row for row in stored(f"double-backward/{precision}")["rows"] if row["network"] == "resnet50"]
        base = back_propagation(rows, rows[0])
        parts.append(", ".join(" and ".join(_ratios(one(rows, method=way), base)) for way in ways))
    what = f"time and memory of a step over BP, {tables.setting(base)}, K = {base['count']}, CPU"
    return [f"{what}, in {' and '.join(precisions)}: {', '.join(ways)}", "; ".join(parts), "double-backward"]


def _kernels() -> list[list[str]]:
    rows = stored("micro-cuda")["rows"]
    lines = []
    for op, mode, shape in ("sgr_loss", "full", [256, 200704]), ("sgr_residual", "full", [256, 802816]):
        case = [row for row in rows if (row["op"], row["mode"], row["shape"]) == (op, mode, shape)]
        ours = one(case, provider="default")
        over = [f"{one(case, provider=name)['seconds'] / ours['seconds']:.2f}x" for name in ("eager", "torch.compile")]
        what = f"{op} {tables.shape(ours)} on an H100: over eager, over torch.compile, share of the bandwidth"
        lines.append([what, f"{', '.join(over)}, {ours['fraction']:.0%}", "micro-cuda.json"])
    return lines


def _captured() -> list[str]:
    [(name, by_method, base)] = [each for each in whole_steps() if each[0].startswith("resnet32")]
    ways = ("directional", "directional, captured", "directional, overlapping, captured")
    over = [f"{by_method[way]['seconds'] / base['seconds']:.2f}x" for way in ways]
    return [f"time over BP of {name}: {'; '.join(ways)}", ", ".join(over), "step-cuda.json"]


if __name__ == "__main__":
    print(against_algorithm_1(), costs(), findings(), sep="\n\n")
