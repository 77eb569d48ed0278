"""Table 3: local training with ResNet-32 and PlainNet on CIFAR-10, every block a module."""

from __future__ import annotations

from . import Recipe, register
from .cifar import on_cifar

ACCURACY = {
    "resnet32": {"layerwise": "84.49 +- 0.36", "reforward": "84.38 +- 0.52", "sgr": "85.65 +- 0.38"},
    "plainnet32": {"layerwise": "80.66 +- 0.42", "reforward": "80.74 +- 0.44", "sgr": "81.67 +- 0.29"},
}
PLAIN = "PlainNet is ResNet-32 without its identity connections."
LAST = "The last module has the head of the others: a convolution and a linear layer."


def _row(model: str, method: str, accuracy: str) -> None:
    @register(f"table3-{model}-{method}")
    def recipe() -> Recipe:
        choices = (LAST, PLAIN) if model == "plainnet32" else (LAST,)
        return on_cifar(f"{accuracy} (Table 3, {model}, {method})", 10, method, *choices, model=model, head="conv")


for _model, _rows in ACCURACY.items():
    for _method, _accuracy in _rows.items():
        _row(_model, _method, _accuracy)
