"""What local networks of a method must know of the module they stand on."""

from __future__ import annotations

from ..errors import UsageError
from ..networks.network import Features, LocalModule


def features_of(module: LocalModule, method: str, *kinds: str) -> Features:
    """The features of its output.

    Raises:
        UsageError: nobody said what they are, or they are of no kind that the method's networks take.
    """
    features = module.features
    if features is None:
        raise UsageError(f"--method {method} needs LocalModule(body, head, features), with the Features of its output")
    if features.kind not in kinds:
        raise UsageError(
            f"--method {method} needs modules that give {' or '.join(kinds)}, and one gives {features.kind} of shape "
            f"{features.shape}; choose another --model"
        )
    return features
