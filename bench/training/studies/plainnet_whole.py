"""Whether what SGR adds shows where images are many: as many steps as in the study of BP-free training."""

from __future__ import annotations

from . import Study, plainnet, register

ROWS = ("layerwise", "sgr", "sgr-rho")


@register("plainnet_whole")
def study() -> Study:
    return plainnet.study().only(
        ROWS,
        title="BP-free training: all images",
        text="The same on the 45,000 images that are not for validation: about as many steps, and each image is seen "
        "eight times, not thirty. A row that gains here and not there was short of images.",
        changes={**plainnet.NETWORK, "epochs": 8},
        drawn=ROWS,
        pictures=("reconciliation",),
    )


@register("plainnet_longer")
def longer() -> Study:
    whole = study()
    rows = ("layerwise", "sgr")
    return whole.only(
        rows,
        title="BP-free training: all images, longer",
        text="For three times as many epochs: whether what the paper's SGR gains after 200 epochs begins to show.",
        changes={**whole.changes, "epochs": 24},
        seeds=(0, 1),
        drawn=rows,
    )
