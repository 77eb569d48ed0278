"""What all recipes on CIFAR have in common (Appendix E)."""

from __future__ import annotations

from typing import Any

from . import Recipe

TRAINING = {
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "augment": ("crop", "flip"),
}
SGR = {"weight": 1.0, "reduction": "batchmean"}  # lambda = 1
COMMON = (
    "A tenth of the training images is held out for validation; the paper names no validation images.",
    "The cosine falls once an epoch, down to 0.",
    "Crops are of images padded by 4 pixels; half of the images are mirrored.",
)
OF_METHOD = {
    "sgr": (
        "lambda = 1 goes with the reduction batchmean (Eq. 6 for each sample), which is n with that of Algorithm 1 "
        "(mean), for n elements of a module's input.",
    ),
    "greedy": ("Every module is trained for all epochs, with the whole schedule.",),
}


def on_cifar(paper: str, classes: int, method: str, *choices: str, **settings: Any) -> Recipe:
    """A recipe of CIFAR-10 or CIFAR-100."""
    of_method = SGR if method == "sgr" else {}
    return Recipe(
        paper=paper,
        settings={"data": f"cifar{classes}", "method": method, **TRAINING, **of_method, **settings},
        choices=(*choices, *OF_METHOD.get(method, ()), *COMMON),
    )


def infix(classes: int) -> str:
    """What names of recipes say of the data: nothing of CIFAR-10."""
    return "" if classes == 10 else f"-cifar{classes}"
