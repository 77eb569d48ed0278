"""Table 6: local learning with ResNet-32 in 16, 3 and 2 modules on CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from . import Recipe, register
from .cifar import infix, on_cifar
from .table3 import LAST

MODULES = (16, 3, 2)
BP = {10: "92.82 +- 0.22", 100: "74.78 +- 0.31"}
ACCURACY = {  # in the order of MODULES; None: not in the paper
    10: {
        "greedy": ("76.96 +- 0.54", "85.12 +- 0.35", "90.06 +- 0.43"),
        "layerwise": ("84.49 +- 0.36", None, None),  # of Table 3
        "sgr": ("85.65 +- 0.38", "91.34 +- 0.45", "92.91 +- 0.36"),
    },
    100: {
        "greedy": ("48.77 +- 0.41", "63.55 +- 0.32", "70.68 +- 0.38"),
        "layerwise": (None, None, None),
        "sgr": ("66.61 +- 0.31", "72.15 +- 0.27", "74.63 +- 0.20"),
    },
}


def _row(classes: int, method: str, modules: int, accuracy: str | None) -> None:
    @register(f"table6-resnet32{infix(classes)}-k{modules}-{method}")
    def recipe() -> Recipe:
        table = "" if accuracy is None else "Table 3, " if method == "layerwise" else "Table 6, "
        paper = f"{accuracy or 'no number'} ({table}CIFAR-{classes}, K={modules}, {method})"
        return on_cifar(paper, classes, method, LAST, model="resnet32", modules=modules, head="conv")


def _bp(classes: int, accuracy: str) -> None:
    @register(f"table6-resnet32{infix(classes)}-bp")
    def recipe() -> Recipe:
        choice = "The classifier is that of ResNet-32: average and one linear layer."
        paper = f"{accuracy} (Table 6, CIFAR-{classes}, BP)"
        return on_cifar(paper, classes, "bp", choice, model="resnet32", head="linear")


for _classes, _rows in ACCURACY.items():
    _bp(_classes, BP[_classes])
    for _method, _accuracies in _rows.items():
        for _modules, _accuracy in zip(MODULES, _accuracies, strict=True):
            _row(_classes, _method, _modules, _accuracy)
