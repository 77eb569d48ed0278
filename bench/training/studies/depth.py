"""Table 7: where back-propagation stops training, and SGR does not."""

from __future__ import annotations

from . import Row, Study, register

DEPTHS = {4: 12, 16: 17, 48: 47}  # and that of the VGG of Table 7 which is nearest


def _row(depth: int, method: str) -> Row:
    return Row(
        name=f"{method}-{depth}",
        recipe=f"table7-vgg{DEPTHS[depth]}-{'bp' if method == 'bp' else 'sgr'}",
        changes={"depth": depth, "method": method},
        against=None if method == "bp" else f"bp-{depth}",
    )


@register("depth")
def study() -> Study:
    return Study(
        title="Depth (Table 7)",
        text="PlainNet of width 16 without BatchNorm; every convolution is a module but for BP.",
        changes={"model": "plainnet", "width": 16, "norm": "none", "train_subset": 5_000, "epochs": 10},
        rows=tuple(_row(depth, method) for depth in DEPTHS for method in ("bp", "layerwise", "sgr")),
        seeds=(0,),
    )
