"""Table 7: VGG of 12 to 57 layers on CIFAR-10."""

from __future__ import annotations

from . import Recipe, register
from .cifar import on_cifar

ACCURACY = {  # BP, SGR
    12: ("90.76", "84.81"),
    17: ("90.95", "86.38"),
    27: ("90.46", "86.95"),
    37: ("78.47", "86.09"),
    47: ("37.68", "85.30"),
    57: ("fail", "85.51"),
}
CHOICES = (
    "d = 5 s + 2: five stages of s convolutions with BatchNorm and ReLU, a max-pool after each, two for a classifier.",
    "The classifier is a convolution and a linear layer, as on ResNet-32.",
    "K is not in the paper: every convolution is a module, with a classifier of its own.",
)


def _row(depth: int, method: str, accuracy: str) -> None:
    @register(f"table7-vgg{depth}-{method}")
    def recipe() -> Recipe:
        paper = f"{accuracy} (Table 7, d={depth}, {method})"
        choices = CHOICES[:2] if method == "bp" else CHOICES
        return on_cifar(paper, 10, method, *choices, model="vgg", depth=depth, head="conv")


for _depth, _accuracies in ACCURACY.items():
    for _method, _accuracy in zip(("bp", "sgr"), _accuracies, strict=True):
        _row(_depth, _method, _accuracy)
