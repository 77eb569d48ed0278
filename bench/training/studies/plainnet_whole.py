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
