"""Table 6 as it stands in the paper: ResNet-32, 200 epochs. For a GPU; see bench/gpu_results.sh."""

from __future__ import annotations

from . import Row, Study, register

MODULES = (3, 16, 2)  # by what a row of a quarter of an hour is worth most
METHODS = ("sgr", "layerwise", "infopro", "dgl", "greedy")


def _row(modules: int, method: str) -> Row:
    name = f"k{modules}-{method}"
    against = None if method == "layerwise" else f"k{modules}-layerwise"
    return Row(name=name, recipe=f"table6-resnet32-{name}", against=against)


@register("table6")
def study() -> Study:
    return Study(
        title="Table 6 at full length",
        text="ResNet-32 in 3, 16 and 2 modules, with the settings of the recipes.",
        changes={"channels_last": True},
        rows=(Row(name="bp", recipe="table6-resnet32-bp"), *(_row(k, method) for k in MODULES for method in METHODS)),
        seeds=(0, 1, 2),
    )
