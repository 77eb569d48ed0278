"""Table 4: BP-free training on CIFAR-10 and CIFAR-100.

With PlainNet every linear-nonlinear transformation is a module. The rows of FA, DRTP and PEPITA are those of PEPITA's
paper, with its network.
"""

from __future__ import annotations

from . import Recipe, register
from .cifar import PEPITA, infix, on_cifar

ACCURACY = {
    10: {"layerwise": "69.17 +- 0.91", "reforward": "69.05 +- 0.63", "sgr": "72.40 +- 0.75"},
    100: {"layerwise": "48.30 +- 0.64", "reforward": "47.12 +- 0.55", "sgr": "49.41 +- 0.44"},
}
CHOICES = (
    "Four convolutions with ReLU, as in Figure 3, without normalisation, which would be no linear-nonlinear block.",
    "128 channels in the first stage: the fixed classifier of 100 classes needs 99.",
)
ACCURACY_OF_PEPITA = {
    10: {"fa": "57.51 +- 0.57", "drtp": "50.53 +- 0.81", "pepita": "56.33 +- 1.35"},
    100: {"fa": "27.15 +- 0.53", "drtp": "20.14 +- 0.68", "pepita": "27.56 +- 0.60"},
}
PEPITA_CONV = {"model": "pepita_conv", "head": "linear", "flatten": True, "bias": False}
CHOICES_OF_PEPITA = (
    "One convolution and a linear layer without biases, batch, momentum and schedule of PEPITA's code.",
    "Without its dropout of 10%; weights begin as PyTorch has them, and images are normalised.",
)
OWN = {  # settings and choices
    "fa": ({"lr": 0.003}, ("The learning rate is that of PEPITA by 0.3: with more it diverges on normalised images.",)),
    "drtp": (
        {"lr": 0.003, "scale": 0.00005},
        (
            "Learning rate and scale of the feedback were chosen on validation images of shorter runs: labels do not "
            "fade as errors do, and with a larger scale the convolution drifts off before the first decay.",
        ),
    ),
}


def _row(classes: int, method: str, accuracy: str) -> None:
    @register(f"table4-plainnet{infix(classes)}-{method}")
    def recipe() -> Recipe:
        network = {"bp_free": True, "model": "plainnet", "depth": 4, "width": 128}
        return on_cifar(f"{accuracy} (Table 4, CIFAR-{classes}, {method})", classes, method, *CHOICES, **network)


def _row_of_pepita(classes: int, method: str, accuracy: str) -> None:
    @register(f"table4-pepita_conv{infix(classes)}-{method}")
    def recipe() -> Recipe:
        paper = f"{accuracy} (Table 4, CIFAR-{classes}, {method})"
        own, choices = OWN.get(method, ({}, ()))
        return on_cifar(paper, classes, method, *CHOICES_OF_PEPITA, *choices, **{**PEPITA, **PEPITA_CONV, **own})


for _rows, _register in ((ACCURACY, _row), (ACCURACY_OF_PEPITA, _row_of_pepita)):
    for _classes, _methods in _rows.items():
        for _method, _accuracy in _methods.items():
            _register(_classes, _method, _accuracy)
