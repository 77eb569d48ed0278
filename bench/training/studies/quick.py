"""A small version of the study of BP-free training, for ten minutes on two cores."""

from __future__ import annotations

from . import Study, plainnet, register

ROWS = ("layerwise", "reforward", "sgr")


@register("quick")
def study() -> Study:
    whole = plainnet.study()
    return whole.only(
        ROWS,
        title=f"{whole.title}, a small version",
        # Not every processor has bfloat16.
        changes={**whole.changes, "amp": None, "train_subset": 4_000, "epochs": 9, "val_every": 9},
        drawn=ROWS,
        shown=False,
    )
