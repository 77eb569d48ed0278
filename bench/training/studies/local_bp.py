"""Table 6: local learning with back-propagation inside of modules."""

from __future__ import annotations

from typing import Any

from . import Row, Study, register

# InfoPro's own settings are for 160 epochs of batches of 1024: too few steps here. It gets those of the others.
AS_THE_OTHERS = {"batch_size": 128, "lr": 0.1, "nesterov": False, "weight_decay": 5e-4, "warmup": 0.0}
MODULES = {3: "k3", 7: "k16"}  # the recipes' number of modules: 7 of ResNet-14 are one a block, as 16 of ResNet-32
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # of the recipe, and what is not its own
    "layerwise": ("layerwise", {}),
    "infopro": ("infopro", AS_THE_OTHERS),
    "sgr": ("sgr", {}),
    "sgr-mean": ("sgr", {"reduction": "mean"}),
    "sgr-rho": ("sgr", {"weight": None, "rho": 0.1}),
    "sgr-rho0.03": ("sgr", {"weight": None, "rho": 0.03}),
}
LONGER = ("k7-layerwise", "k7-sgr-rho", "k7-sgr-rho0.03")


def _row(modules: int, name: str) -> Row:
    method, own = METHODS[name]
    return Row(
        name=f"k{modules}-{name}",
        recipe=f"table6-resnet32-{MODULES[modules]}-{method}",
        changes={"modules": modules, **own},
        against=None if name == "layerwise" else f"k{modules}-layerwise",
    )


@register("local_bp")
def study() -> Study:
    return Study(
        title="Local BP (Table 6)",
        text="ResNet-14 in three modules, and with every block a module. sgr has the paper's lambda under batchmean, "
        "as the recipe has it; sgr-mean has it under mean, where the SGR loss in the table is n times as small, for n "
        "elements of a sample; sgr-rho has the relative weight 0.1, sgr-rho0.03 that of 0.03.",
        changes={"model": "resnet14", "train_subset": 10_000, "epochs": 8, "channels_last": True},
        rows=(
            Row(name="bp", recipe="table6-resnet32-bp"),
            *(_row(modules, name) for modules in MODULES for name in METHODS),
        ),
        seeds=(0, 1),
    )


@register("local_bp_longer")
def longer() -> Study:
    short = study()
    return short.only(
        LONGER,
        title="Local BP: longer",
        text="Every block a module, for two and a half times as many epochs: whether what SGR costs in short training "
        "is made up for by training on.",
        changes={**short.changes, "epochs": 20},
    )
