"""What the rows of BP-free training are run with: chosen on validation images, with other seeds."""

from __future__ import annotations

from typing import Any

from . import Row, Study, register

RAW = {"normalize": False}  # Eq. 6 as printed
CANDIDATES: dict[str, dict[str, Any]] = {
    **{f"lambda {weight:g}": {"weight": weight} for weight in (0.03, 0.1, 0.3, 1.0)},
    **{f"rho {rho:g}": {"weight": None, "rho": rho} for rho in (0.03, 0.1, 0.3)},
    **{f"mean, lambda {weight:g}": {"weight": weight, "reduction": "mean"} for weight in (1.0, 1000.0, 10000.0)},
    "not normalised, lambda 1": {"weight": 1.0, **RAW},
    "not normalised, rho 0.1": {"weight": None, "rho": 0.1, **RAW},
    "rho 0.1, batches of 64": {"weight": None, "rho": 0.1, "batch_size": 64},
}


@register("plainnet_search")
def study() -> Study:
    return Study(
        title="BP-free training: the search",
        text="Every candidate on 5,000 training images; accuracies are of the 5,000 validation images.",
        changes={"width": 32, "train_subset": 5_000, "epochs": 10, "channels_last": True},
        rows=(
            Row(name="layerwise", recipe="table4-plainnet-layerwise"),
            Row(name="layerwise, batches of 64", recipe="table4-plainnet-layerwise", changes={"batch_size": 64}),
            *(
                Row(name=name, recipe="table4-plainnet-sgr", changes=changes, against="layerwise")
                for name, changes in CANDIDATES.items()
            ),
        ),
        seeds=(100, 101),
        quantity="val_accuracy",
    )
