"""Markdown tables of stored results, as the README shows them: ``python -m sgr_bench.tables [FOLDER]``."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def residual(result: dict[str, Any]) -> str:
    header = ["(B, n)", "sgr_loss, ms", "over eager", "over torch.compile", "GB/s"]
    rows = [
        [
            f"({', '.join(map(str, row['shape']))})",
            f"{row['median_us']['sgr_loss'] / 1e3:.3f}",
            f"{row['speedup_over_eager']:.2f}x",
            f"{row['speedup_over_compile']:.2f}x",
            f"{row['gigabytes_per_second']:.1f}",
        ]
        for row in result["rows"]
    ]
    return markdown([header, *rows])


def relu_block(result: dict[str, Any]) -> str:
    block, net = result["rows"]
    header = ["", "Eq. 35", "exact"]
    rows = [
        ["linear ReLU block, time over that of its 3 or 5 bare products"]
        + [f"{block[name]:.2f}" for name in ("eq35_over_3_products", "exact_over_5_products")],
        ["linear ReLU block, speed-up over Algorithm 1"]
        + [f"{block[f'{name}_speedup_over_algorithm1']:.2f}x" for name in ("eq35", "exact")],
        ["linear ReLU block, FLOPs / B m n (Algorithm 1: " + f"{block['flops_per_Bmn']['Algorithm 1']:.2f})"]
        + [f"{block['flops_per_Bmn'][name]:.2f}" for name in ("fused, Eq. 35", "fused, exact")],
        ["BP-free 4-layer conv PlainNet, speed-up over Algorithm 1"]
        + [f"{net[f'{name}_speedup_over_algorithm1']:.2f}x" for name in ("eq35", "exact")],
        ["BP-free 4-layer conv PlainNet, peak memory over that of Algorithm 1"]
        + [f"{net[f'{name}_memory_over_algorithm1']:.2f}" for name in ("eq35", "exact")],
    ]
    return markdown([header, *rows])


def step(result: dict[str, Any]) -> str:
    header = ["", "", "directional", "Algorithm 1", "directional every 4th"]
    rows = []
    for row in result["rows"]:
        name = f"{row['network']}, batch {row['batch']}"
        parts = [(f"module {part['module']}", part) for part in row["modules"]]
        for part_name, part in [*parts, ("whole step", row["step"])]:
            for label, key in (("time", "seconds"), ("memory", "peak_bytes")):
                rows.append([name, f"{part_name}, {label}"] + [_over(part, n, "plain", key) for n in header[2:]])
        rows.append(
            [name, "whole step, memory over BP"] + [_over(row["step"], n, "BP", "peak_bytes") for n in header[2:]]
        )
    return markdown([header, *rows])


def _over(part: dict[str, Any], name: str, other: str, key: str) -> str:
    return f"{part[name][key] / part[other][key]:.2f}x" if name in part else ""


def gradients(result: dict[str, Any]) -> str:
    header = ["", "", "spread", "order 1: cosine", "error", "order 2: cosine", "error"]
    rows = []
    for network in result["rows"]:
        for row in network["results"]:
            agreements = [row[f"order {order}"] for order in (1, 2)]
            numbers = [f"{a[name]:.{digits}f}" for a in agreements for name, digits in _AGREEMENT.items()]
            precision = row["precision"].removesuffix(" autocast")
            rows.append([network["network"], f"{row['when']}, {precision}", f"{row['spread']:.0f}", *numbers])
    return markdown([header, *rows])


_AGREEMENT = {"cosine": 5, "relative_error": 4}


TABLES = {
    "residual": residual,
    "relu_block": relu_block,
    "step": step,
    "step_tokens": step,
    "gradients": gradients,
}


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def load(name: str, folder: pathlib.Path = RESULTS) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    for name, table in TABLES.items():
        print(table(load(f"{name}-cpu", folder)), end="\n\n")


if __name__ == "__main__":
    main()
