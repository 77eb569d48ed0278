"""Table 4 and Figures 2 and 3: BP-free training of a PlainNet of four layers."""

from __future__ import annotations

from . import Row, Study, register


@register("plainnet")
def study() -> Study:
    return Study(
        title="BP-free training (Table 4, Figures 2 and 3)",
        text="PlainNet of four convolutions with ReLU, each a module with a fixed ETF classifier.",
        changes={"width": 32, "train_subset": 10_000, "epochs": 30, "channels_last": True, "log": ("input_change",)},
        rows=(
            Row(name="layerwise", recipe="table4-plainnet-layerwise"),
            Row(name="reforward", recipe="table4-plainnet-reforward", against="layerwise"),
            Row(name="sgr", recipe="table4-plainnet-sgr", against="layerwise"),
            Row(name="sgr-eq35", recipe="table4-plainnet-sgr", changes={"curvature": "none"}, against="layerwise"),
        ),
        seeds=(0, 1, 2),
        drawn=("layerwise", "reforward", "sgr"),
        pictures=("reconciliation", "input_change"),
    )
