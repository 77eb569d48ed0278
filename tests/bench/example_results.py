"""Results of all parts, made up but plausible, in the form in which ``sgr-bench`` writes them."""

from __future__ import annotations

import copy
import json
import math
import pathlib
from typing import Any

MACHINE = {
    "device": "cpu",
    "name": "Example CPU",
    "cores": 2,
    "threads": 2,
    "python": "3.11.2",
    "torch": "2.14.1",
    "sgr_kernels": "0.1.0",
    "revision": "0123456789ab",
}
Row = dict[str, Any]

# Time and memory of a whole step over those of BP.
METHODS = {
    "BP": (1.0, 1.0),
    "BP + checkpointing": (1.31, 0.42),
    "plain local": (1.05, 0.44),
    "plain local + checkpointing": (1.4, 0.3),
    "reforward": (1.35, 0.45),
    "greedy": (0.7, 0.4),
    "directional": (1.78, 0.47),
    "directional + checkpointing": (2.3, 0.36),
    "directional, every 4th": (1.24, 0.47),
    "fused": (1.12, 0.45),
    "Algorithm 1": (2.95, 0.98),
    "Algorithm 1, compiled": (2.2, 0.9),
}
# Seconds and bytes of a step of BP, and the numbers of modules.
NETWORKS = {
    "resnet50": (2.3, 2.6e9, (2, 3)),
    "vit_s_16": (1.1, 1.5e9, (3,)),
    "swin_t": (1.4, 1.9e9, (3,)),
    "resnet32": (0.2, 2.1e8, (2, 3, 4, 8, 16)),
    "plainnet4": (0.02, 5e7, (4,)),
    "plainnet8": (0.045, 1e8, (8,)),
    "plainnet16": (0.1, 2e8, (16,)),
}
# Of each operator: shapes, FLOPs for each byte, and the time of every provider over that of ours.
OPERATORS = {
    ("sgr_loss", "forward + backward"): (
        [(8, 64), (128, 64), (128, 1024), (8, 1024), (1024, 1024), (128, 16384), (64, 200704), (1, 50_000_000)],
        0.3,
        {"reference": 3.1, "eager": 4.2, "torch.compile": 1.7, "cpu": 1.0},
    ),
    ("sgr_residual", "forward"): ([(128, 1024), (128, 16384)], 0.3, {"reference": 6.0, "cpu": 1.0}),
    ("linear_relu", "forward + backward"): (
        [(128, 512, 512), (512, 2048, 2048)],
        60,
        {"reference": 1.2, "torch.compile": 1.05, "cpu": 1.0},
    ),
    ("linear_relu_sgr", "none"): (
        [(128, 512, 512), (512, 512, 512), (512, 2048, 2048)],
        50,
        {"reference": 1.3, "cpu": 1.0, "library GEMM": 0.94, "Algorithm 1": 2.27},
    ),
    ("linear_relu_sgr", "exact"): (
        [(128, 512, 512), (512, 512, 512), (512, 2048, 2048)],
        80,
        {"reference": 1.2, "cpu": 1.0, "library GEMM": 0.95, "Algorithm 1": 1.35},
    ),
}


def results() -> dict[str, dict[str, Any]]:
    """By part."""
    rows = {
        "roofline": _roofline(),
        "micro": _micro(),
        "step": _step(),
        "memory": _memory(),
        "cuts": [
            {
                "network": "resnet50",
                "batch": 32,
                "count": 3,
                "method": "directional",
                "cuts": [3, 6],
                "peak_bytes": 10**9,
            }
        ],
        "gradients": _gradients(),
        "compiled": _compiled(),
        "loader": _loader(),
    }
    return {part: _result(part, r) for part, r in rows.items()}


def write(folder: pathlib.Path, results: dict[str, dict[str, Any]]) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, result in results.items():
        (folder / f"{part}-{result['machine']['device']}.json").write_text(json.dumps(result))
    return folder


def _result(part: str, rows: list[Row]) -> dict[str, Any]:
    command = f"sgr-bench {part} --device cpu --threads 2"
    rows = [{**row, "command": command} for row in rows]
    return {"part": part, "date": "2026-01-02", "command": command, "machine": copy.copy(MACHINE), "rows": rows}


def _time(seconds: float) -> Row:
    return {"seconds": seconds, "low": 0.98 * seconds, "high": 1.03 * seconds, "repeats": 11}


def _roofline() -> list[Row]:
    copies = [
        {"limit": "copy", "dtype": "float32", "size": size, **_time(size / speed / 1e9), "gbps": speed}
        for size, speed in ((1 << 20, 60.0), (1 << 28, 21.0))
    ]
    products = [
        {"limit": "gemm", "dtype": dtype, "size": n, **_time(2 * n**3 / speed / 1e12), "tflops": speed}
        for dtype, peak in (("float32", 0.17), ("bfloat16", 0.29))
        for n, speed in ((512, 0.7 * peak), (4096, peak))
    ]
    return copies + products


def _micro() -> list[Row]:
    rows = []
    for (op, mode), (shapes, intensity, providers) in OPERATORS.items():
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            for shape in shapes:
                for provider, ratio in providers.items():
                    rows.append(_micro_row(op, mode, dtype, width, shape, intensity, provider, ratio))
    return rows


def _micro_row(
    op: str, mode: str, dtype: str, width: int, shape: tuple[int, ...], intensity: float, provider: str, ratio: float
) -> Row:
    size = 5 * width * math.prod(shape) // (200 if len(shape) > 2 else 1)
    compute = intensity > 10
    seconds = ratio * (1e-5 + (intensity * size / 0.15e12 if compute else size / 20e9))
    flops = int(intensity * size)
    return {
        "op": op,
        "mode": mode,
        "provider": provider,
        "shape": list(shape),
        "dtype": dtype,
        **_time(seconds),
        "timed": "wall",
        "error": 1e-7,
        "bytes": size,
        "flops": flops,
        "gbps": size / seconds / 1e9,
        "tflops": flops / seconds / 1e12,
        "bound": "compute" if compute else "memory",
        "fraction": flops / seconds / 0.17e12 if compute else size / seconds / 21e9,
    }


def _steps(network: str, count: int) -> list[Row]:
    seconds, size, _ = NETWORKS[network]
    setting = {"network": network, "batch": 32, "image_size": 32 if size < 1e9 else 224, "count": count}
    setting |= {"cuts": list(range(1, count)), "precision": "float32"}
    rows = []
    for method, (time, memory) in METHODS.items():
        if method == "fused" and not network.startswith("plainnet"):
            continue
        extra = 0 if method.startswith("BP") else 0.02 * count
        share = memory if method.startswith("BP") else memory * (0.7 + 0.9 / count)
        found = {**_time((time + extra) * seconds), "peak_bytes": int(share * size), "error": None}
        if method == "Algorithm 1, compiled":
            found["peak_bytes"] = None
        rows.append({**setting, "module": None, "method": method, **found})
    for module in range(2, count + 1 if count < 4 else 2):
        for method, (time, memory) in (("plain local", (1, 1)), ("directional", (2, 1.2)), ("Algorithm 1", (3, 2.4))):
            found = {**_time(time * seconds / count), "peak_bytes": int(memory * size / count), "error": 0.002}
            rows.append({**setting, "module": module, "method": method, **found})
    return rows


def _step() -> list[Row]:
    return [row for network, (_, _, counts) in NETWORKS.items() for count in counts for row in _steps(network, count)]


def _memory() -> list[Row]:
    rows = []
    for network in ("resnet50", "vit_s_16", "resnet32"):
        size = NETWORKS[network][1]
        setting = {"network": network, "batch": 256, "image_size": 224, "how": "fake tensors"}
        for method in ("BP", "BP + checkpointing"):
            rows.append({**setting, **_peak(1, method, size * METHODS[method][1], size, None)})
        for count in NETWORKS[network][2]:
            for method in ("directional", "Algorithm 1"):
                paper = {("resnet50", 2): 0.834, ("resnet50", 3): 0.714, ("vit_s_16", 3): 0.567}.get((network, count))
                share = METHODS[method][1] * (0.7 + 0.9 / count) * size
                rows.append(
                    {**setting, **_peak(count, method, share, size, paper if method == "Algorithm 1" else None)}
                )
                over = {"peak_bytes": int(share), "over_plain": 1.18 if method == "directional" else 2.4}
                cuts = list(range(1, count))
                rows.append({**setting, "count": count, "cuts": cuts, "module": count, "method": method, **over})
    return rows


def _peak(count: int, method: str, peak: float, bp: float, paper: float | None) -> Row:
    place = {"count": count, "cuts": list(range(1, count)), "module": None, "method": method}
    return {**place, "peak_bytes": int(peak), "over_bp": int(peak) / int(bp), "paper_over_bp": paper}


def _gradients() -> list[Row]:
    rows = []
    for network in ("residual", "vit"):
        for when in ("at init", "trained"):
            for precision in ("float32", "bfloat16"):
                setting = {"network": network, "module": 2, "when": when, "precision": precision, "spread": 27.3}
                setting |= {"relative_floor": 0.3, "images": 512, "train_accuracy": 0.94}
                found = {"cosine": 0.9987, "relative_error": 0.0321}
                rows.append({**setting, "engine": "autograd", "against": "float64", **found})
                for order in (1, 2):
                    how = {"engine": "directional", "order": order, "against": "float64"}
                    found = {"cosine": 0.99951 + order / 1e4, "relative_error": 0.0231 / order}
                    rows.append({**setting, **how, **found})
    return rows


def _compiled() -> list[Row]:
    times = {
        "eager, plain local": 0.4,
        "eager, directional": 0.8,
        "compiled, plain local": 0.3,
        "compiled, directional": 0.6,
    }
    return [
        {"network": "resnet50", "batch": 4, "error": 0.0002, "warm_up": 61.2, "method": method, **_time(seconds)}
        for method, seconds in times.items()
    ]


def _loader() -> list[Row]:
    facts = {"images": 20000, "workers": 2, "batch": 128, "size": 112}
    times = {"sgr_train": 5.0, "DataLoader": 6.25}
    return [{"loader": name, **facts, "images_per_second": 20000 / s, **_time(s)} for name, s in times.items()]
