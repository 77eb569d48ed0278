"""Table 7: where back-propagation stops training, and SGR does not."""

from __future__ import annotations

from itertools import product

from . import Row, Study, register

DEPTHS = {4: 12, 16: 17, 48: 47}  # and that of the VGG of Table 7 which is nearest
RHO = {"weight": None, "rho": 0.1}
METHODS, RATES = ("bp", "layerwise", "sgr"), (0.1, 0.03, 0.01)


def _row(depth: int, method: str, rate: float) -> Row:
    return Row(
        name=f"{method}-{depth}-lr{rate:g}",
        recipe=f"table7-vgg{DEPTHS[depth]}-{'bp' if method == 'bp' else 'sgr'}",
        changes={"depth": depth, "method": method, "lr": rate, **(RHO if method == "sgr" else {})},
    )


@register("depth")
def study() -> Study:
    network = {"model": "plainnet", "width": 16, "norm": "none", "head": "linear", "channels_last": True}
    training = {"train_subset": 5_000, "epochs": 4, "batch_size": 64, "val_every": 2}
    return Study(
        title="Depth (Table 7)",
        text="PlainNet without BatchNorm; every convolution is a module but for BP. No learning rate suits all depths "
        "and methods then, so each has the same three to choose from by its validation accuracy; all are in the table.",
        changes={**network, **training},
        rows=tuple(_row(depth, method, rate) for depth, method, rate in product(DEPTHS, METHODS, RATES)),
        seeds=(0,),
        pictures=("depth",),
    )
