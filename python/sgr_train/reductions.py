"""What a lambda under one reduction of the SGR loss is under another one.

The loss is a sum over the B samples of a batch ("sum"), divided by B ("batchmean": Eq. 6 for each sample) or by B n
("mean": Algorithm 1), where n are the elements of a sample. n is another one in every module: under "mean" the SGR loss
of a network whose maps shrink with depth weighs more in later modules.
"""

from __future__ import annotations

import math

from .networks.network import Network


def convert(weight: float, given: str, wanted: str, *, elements: int, batch: int = 1) -> float:
    """The lambda under ``wanted`` that gives the gradients of ``weight`` under ``given``.

    Args:
        given, wanted: "mean", "batchmean" or "sum".
        elements: n, of a sample of the input of the module.
        batch: B, which matters for "sum" alone.

    Raises:
        KeyError: another reduction.
    """
    shares = {"mean": 1 / (batch * elements), "batchmean": 1 / batch, "sum": 1.0}
    return weight * shares[given] / shares[wanted]


def elements(network: Network) -> list[int]:
    """n of the modules that reconcile, which are all but the first: elements of a sample of their input."""
    return [math.prod(module.features.shape) for module in list(network)[:-1]]
