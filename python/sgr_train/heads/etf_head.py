"""A fixed classifier (Eq. 7), with which a module of one layer needs no back-propagation."""

from __future__ import annotations

import math

from torch import nn

import sgr_kernels as sk

from ..errors import UsageError
from ..networks.network import Features
from . import register
from .token_head import MeanToken


@register("etf")
def etf(features: Features, num_classes: int, *, flatten: bool = False) -> nn.Module:
    """Average over positions and a fixed equiangular tight frame (Eq. 7): nothing to learn.

    Args:
        flatten: a frame over every position by itself, in the place of their average.
    """
    width = math.prod(features.shape) if flatten else features.channels
    try:
        classifier = sk.ETFClassifier(num_classes, width)
    except ValueError as error:
        raise UsageError(f"--head etf needs wider modules (--width) or another --head: {error}") from error
    if flatten:
        return sk.CrossEntropyHead(classifier, nn.Flatten())
    return sk.CrossEntropyHead(classifier, MeanToken() if features.kind == "tokens" else None)
