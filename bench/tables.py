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


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def load(name: str, folder: pathlib.Path = RESULTS) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    print(residual(load("residual-cpu", folder)), relu_block(load("relu_block-cpu", folder)), sep="\n\n")


if __name__ == "__main__":
    main()
