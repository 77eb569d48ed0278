"""Whether one rho serves where lambda has to be looked for: data, heads and numbers of modules."""

from __future__ import annotations

from typing import Any

from . import Row, Study, register

DIGITS = {"depth": 6, "epochs": 15, "lr": 0.1}
CIFAR = {"data": "cifar10", "depth": 6, "epochs": 8, "lr": 0.1, "train_subset": 5_000, "batch_size": 128}
HEADS: dict[str, dict[str, Any]] = {
    "ETF": {"head": "etf"},
    "linear": {"head": "linear"},
    "conv": {"head": "conv"},
    "conv, K=3": {"head": "conv", "modules": 3},
}
STRENGTHS: dict[str, dict[str, Any]] = {
    **{f"lambda {weight:g}": {"weight": weight} for weight in (0.03, 0.1, 0.3)},
    **{f"rho {rho:g}": {"rho": rho} for rho in (0.03, 0.1, 0.3)},
}


def _rows(head: str) -> list[Row]:
    settings, base = HEADS[head], f"{head}: layerwise"
    others = [
        Row(name=f"{head}: {name}", recipe="digits-sgr", changes={**settings, **strength}, against=base)
        for name, strength in STRENGTHS.items()
    ]
    return [Row(name=base, recipe="digits-layerwise", changes=settings), *others]


def _study(name: str, title: str, changes: dict[str, Any], seeds: tuple[int, ...]) -> None:
    @register(name)
    def study() -> Study:
        return Study(
            title=f"lambda, or rho: {title}",
            text="PlainNet of six convolutions with BatchNorm, every one a module but for K=3; validation accuracy.",
            changes=changes,
            rows=tuple(row for head in HEADS for row in _rows(head)),
            seeds=seeds,
            quantity="val_accuracy",
        )


_study("weight_digits", "digits", DIGITS, (100, 101, 102, 103))
_study("weight_cifar", "CIFAR-10", CIFAR, (100, 101))
