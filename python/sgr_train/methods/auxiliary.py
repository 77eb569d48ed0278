"""Local networks that a method puts on the modules of a network."""

from __future__ import annotations

from torch import Tensor

from .. import heads
from ..errors import UsageError
from ..networks.network import Features, LocalModule


def features_of(module: LocalModule, method: str, *kinds: str) -> Features:
    """The features of its output.

    Raises:
        UsageError: nobody said what they are, or they are of no kind that the method's networks take.
    """
    features = module.features
    if features is None:
        needed = "LocalModule(body, head, features), with the Features of its output"
        raise UsageError(f"--method {method} needs {needed}, got features=None")
    if features.kind not in kinds:
        raise UsageError(
            f"--method {method} needs modules that give {' or '.join(kinds)}, and one gives {features.kind} of shape "
            f"{features.shape}; choose another --model"
        )
    return features


def replace_head(module: LocalModule, name: str, features: Features, sample: Tensor, num_classes: int) -> None:
    """Another head, with dtype and device of the sample and the label smoothing of the head that was there."""
    head = heads.create(name, features, num_classes=num_classes).to(sample)
    head.label_smoothing = getattr(module.head, "label_smoothing", 0.0)
    module.head = head
