"""Table 4 and Figures 2 and 3: BP-free training of a PlainNet of four layers."""

from __future__ import annotations

from typing import Any

from . import Row, Study, register

# Chosen by plainnet_search, on validation images and with other seeds.
WEIGHT = {"weight": 0.1}
NETWORK = {"width": 32, "channels_last": True, "amp": "bf16"}


def _sgr(name: str, changes: dict[str, Any]) -> Row:
    return Row(name=name, recipe="table4-plainnet-sgr", changes=changes, against="layerwise")


@register("plainnet")
def study() -> Study:
    return Study(
        title="BP-free training (Table 4, Figures 2 and 3)",
        text="PlainNet of four convolutions with ReLU, each a module with a fixed ETF classifier. Steps are in "
        "bfloat16 autocast; accuracies and SGR losses are measured in float32. sgr has the lambda that the search "
        "found with other seeds, sgr-rho the relative weight 0.1.",
        changes={**NETWORK, "train_subset": 10_000, "epochs": 30, "log": ("input_change",)},
        rows=(
            Row(name="layerwise", recipe="table4-plainnet-layerwise"),
            Row(name="reforward", recipe="table4-plainnet-reforward", against="layerwise"),
            _sgr("sgr", WEIGHT),
            _sgr("sgr-eq35", {**WEIGHT, "curvature": "none"}),
            _sgr("sgr-rho", {"weight": None, "rho": 0.1}),
        ),
        seeds=(0, 1, 2),
        drawn=("layerwise", "reforward", "sgr", "sgr-rho"),
        pictures=("reconciliation", "input_change"),
    )
