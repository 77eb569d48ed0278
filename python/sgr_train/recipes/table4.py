"""Table 4: BP-free training with PlainNet on CIFAR-10 and CIFAR-100, every linear-nonlinear transformation a module."""

from __future__ import annotations

from . import Recipe, register
from .cifar import infix, on_cifar

ACCURACY = {
    10: {"layerwise": "69.17 +- 0.91", "reforward": "69.05 +- 0.63", "sgr": "72.40 +- 0.75"},
    100: {"layerwise": "48.30 +- 0.64", "reforward": "47.12 +- 0.55", "sgr": "49.41 +- 0.44"},
}
CHOICES = (
    "Four convolutions with ReLU, as in Figure 3, without normalisation, which would be no linear-nonlinear block.",
    "128 channels in the first stage: the fixed classifier of 100 classes needs 99.",
)


def _row(classes: int, method: str, accuracy: str) -> None:
    @register(f"table4-plainnet{infix(classes)}-{method}")
    def recipe() -> Recipe:
        network = {"bp_free": True, "model": "plainnet", "depth": 4, "width": 128}
        return on_cifar(f"{accuracy} (Table 4, CIFAR-{classes}, {method})", classes, method, *CHOICES, **network)


for _classes, _rows in ACCURACY.items():
    for _method, _accuracy in _rows.items():
        _row(_classes, _method, _accuracy)
