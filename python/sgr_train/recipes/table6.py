"""Table 6: local learning with ResNet-32 in 16, 3 and 2 modules on CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from ..methods.infopro import PUBLISHED, published
from . import Recipe, register
from .cifar import infix, on_cifar
from .table3 import LAST

MODULES = (16, 3, 2)
BP = {10: "92.82 +- 0.22", 100: "74.78 +- 0.31"}
ACCURACY = {  # in the order of MODULES; None: not in the paper
    10: {
        "greedy": ("76.96 +- 0.54", "85.12 +- 0.35", "90.06 +- 0.43"),
        "layerwise": ("84.49 +- 0.36", None, None),  # of Table 3
        "dgl": ("84.01 +- 0.40", "87.61 +- 0.51", "91.05 +- 0.27"),
        "infopro": ("85.69 +- 0.47", "90.43 +- 0.36", "91.74 +- 0.29"),
        "sgr": ("85.65 +- 0.38", "91.34 +- 0.45", "92.91 +- 0.36"),
    },
    100: {
        "greedy": ("48.77 +- 0.41", "63.55 +- 0.32", "70.68 +- 0.38"),
        "layerwise": (None, None, None),
        "dgl": ("63.31 +- 0.28", "70.59 +- 0.39", "72.34 +- 0.31"),
        "infopro": ("66.27 +- 0.44", "71.44 +- 0.24", "73.59 +- 0.25"),
        "sgr": ("66.61 +- 0.31", "72.15 +- 0.27", "74.63 +- 0.20"),
    },
}
AVERAGE = "The last classifier is that of ResNet-32: average and one linear layer."
OF_DGL = "The last module has a convolution and a linear layer, the others DGL's auxiliary network."
HEADS = {"infopro": ("linear", AVERAGE), "dgl": ("conv", OF_DGL)}  # that of InfoPro is in its code


def _loss_weights(modules: int) -> str:
    """What InfoPro's losses are weighed with."""
    weights = " ".join(f"{weight:g}" for weight in published(modules))
    published_for = "as published for this K" if modules in PUBLISHED else "K = 3 is unpublished, these are those of 4"
    return f"ixx1, ixy1, ixx2, ixy2 are {weights} ({published_for}), on CIFAR-100 too."


def _row(classes: int, method: str, modules: int, accuracy: str | None) -> None:
    @register(f"table6-resnet32{infix(classes)}-k{modules}-{method}")
    def recipe() -> Recipe:
        table = "" if accuracy is None else "Table 3, " if method == "layerwise" else "Table 6, "
        paper = f"{accuracy or 'no number'} ({table}CIFAR-{classes}, K={modules}, {method})"
        head, choice = HEADS.get(method, ("conv", LAST))
        choices = (choice, _loss_weights(modules)) if method == "infopro" else (choice,)
        return on_cifar(paper, classes, method, *choices, model="resnet32", modules=modules, head=head)


def _bp(classes: int, accuracy: str) -> None:
    @register(f"table6-resnet32{infix(classes)}-bp")
    def recipe() -> Recipe:
        paper = f"{accuracy} (Table 6, CIFAR-{classes}, BP)"
        return on_cifar(paper, classes, "bp", AVERAGE, model="resnet32", head="linear")


for _classes, _rows in ACCURACY.items():
    _bp(_classes, BP[_classes])
    for _method, _accuracies in _rows.items():
        for _modules, _accuracy in zip(MODULES, _accuracies, strict=True):
            _row(_classes, _method, _modules, _accuracy)
