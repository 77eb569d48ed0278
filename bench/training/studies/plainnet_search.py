"""What the rows of BP-free training are run with: chosen on validation images, with other seeds."""

from __future__ import annotations

from typing import Any

from . import Row, Study, register

RHO = {"weight": None, "rho": 0.1}
CANDIDATES: dict[str, dict[str, Any]] = {
    **{f"lambda {weight:g}": {"weight": weight} for weight in (0.03, 0.1, 0.3, 1.0)},
    **{f"rho {rho:g}": {"weight": None, "rho": rho} for rho in (0.03, 0.1, 0.3)},
    "mean, lambda 1": {"weight": 1.0, "reduction": "mean"},
    "mean, lambda 3277": {"weight": 3277.0, "reduction": "mean"},  # 0.1, 0.1 and 0.2 under batchmean
    "not normalised, lambda 1e5": {"weight": 1e5, "normalize": False},  # Eq. 6 as printed
    "not normalised, rho 0.1": {**RHO, "normalize": False},
    "rho 0.1, batches of 64": {**RHO, "batch_size": 64},
    "rho 0.1, flattened": {**RHO, "flatten": True},
}


def _plain(name: str) -> str:
    """The row without SGR."""
    *_, last = name.split(", ")
    return f"layerwise, {last}" if last in ("batches of 64", "flattened") else "layerwise"


@register("plainnet_search")
def study() -> Study:
    return Study(
        title="BP-free training: the search",
        text="Every candidate on 5,000 training images; accuracies are of the 5,000 validation images. Where the "
        "reduction is mean, the SGR loss is in it too: n times as small, for n elements of a sample.",
        changes={"width": 32, "train_subset": 5_000, "epochs": 10, "channels_last": True},
        rows=(
            Row(name="layerwise", recipe="table4-plainnet-layerwise"),
            Row(name="layerwise, batches of 64", recipe="table4-plainnet-layerwise", changes={"batch_size": 64}),
            Row(name="layerwise, flattened", recipe="table4-plainnet-layerwise", changes={"flatten": True}),
            Row(name="reforward", recipe="table4-plainnet-reforward", against="layerwise"),
            *(
                Row(name=name, recipe="table4-plainnet-sgr", changes=changes, against=_plain(name))
                for name, changes in CANDIDATES.items()
            ),
            Row(
                name="rho 0.1, delta_pre of after the update",
                recipe="table4-plainnet-sgr",
                changes={**RHO, "method": "sgr_after"},
                against="reforward",
                plugin="variants.py",
            ),
        ),
        seeds=(100, 101),
        quantity="val_accuracy",
    )
