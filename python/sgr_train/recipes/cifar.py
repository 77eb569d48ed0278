"""What all recipes on CIFAR have in common (Appendix E), and what some methods have in its place."""

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
OF_METHOD: dict[str, dict[str, Any]] = {
    "sgr": {"weight": 1.0, "reduction": "batchmean"},  # lambda = 1
    "dgl": {"epochs": 50, "schedule": "step", "milestones": (15, 30, 45), "gamma": 0.2},
    "infopro": {"epochs": 160, "batch_size": 1024, "lr": 0.8, "nesterov": True, "weight_decay": 1e-4, "warmup": 10},
}
PEPITA = {  # of its code, with which Table 4 compares
    "epochs": 100,
    "batch_size": 50,
    "lr": 0.01,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": (10, 30, 60),
    "gamma": 0.1,
    "augment": (),
}
VALIDATION = "A tenth of the training images is held out for validation; the paper names no validation images."
CHOICES_OF = {  # by setting and its value
    ("schedule", "cosine"): "The cosine falls once an epoch, down to 0.",
    ("augment", ("crop", "flip")): "Crops are of images padded by 4 pixels; half of the images are mirrored.",
    ("method", "sgr"): "lambda = 1 goes with the reduction batchmean (Eq. 6 for each sample), which is n with that of "
    "Algorithm 1 (mean), for n elements of a module's input.",
    ("method", "greedy"): "Every module is trained for all epochs, with the whole schedule.",
    ("method", "dgl"): "Epochs and schedule are those of DGL's code; the paper says of all its models 200 epochs.",
    ("method", "infopro"): "Epochs, batch, optimizer and schedule are those of InfoPro's code, with its contrastive "
    "loss; the paper says of all its models 200 epochs. The cosine begins after the warm-up, not along with it.",
}


def on_cifar(paper: str, classes: int, method: str, *choices: str, **settings: Any) -> Recipe:
    """A recipe of CIFAR-10 or CIFAR-100."""
    every = {"data": f"cifar{classes}", "method": method, **TRAINING, **OF_METHOD.get(method, {}), **settings}
    chosen = (text for (name, value), text in CHOICES_OF.items() if every[name] == value)
    return Recipe(paper=paper, settings=every, choices=(*choices, *chosen, VALIDATION))


def infix(classes: int) -> str:
    """What names of recipes say of the data: nothing of CIFAR-10."""
    return "" if classes == 10 else f"-cifar{classes}"
