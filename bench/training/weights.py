"""What lambda under "mean", the reduction of Algorithm 1, is under "batchmean", Eq. 6 for each sample.

The mean over the n elements of a sample divides the SGR loss by n, another one in every module: where maps shrink with
depth, its weight grows.
"""

from __future__ import annotations

import math

from sgr_train.networks.network import Network

from ..tables import markdown


def elements(network: Network) -> list[int]:
    """n of the modules that reconcile, which are all but the first: elements of a sample of their input."""
    return [math.prod(module.features.shape) for module in list(network)[:-1]]


def as_batchmean(weight: float, network: Network) -> list[float]:
    """The weights under "batchmean", module by module from the second, that are one ``weight`` under "mean"."""
    return [weight / n for n in elements(network)]


def table(network: Network, weight: float = 1.0) -> str:
    """A line for each of these modules, counted from 1."""
    header = ["module", "n", f"lambda {weight:g} under mean is, under batchmean"]
    pairs = zip(elements(network), as_batchmean(weight, network), strict=True)
    return markdown([header, *([str(k), str(n), f"{own:.2g}"] for k, (n, own) in enumerate(pairs, 2))])
