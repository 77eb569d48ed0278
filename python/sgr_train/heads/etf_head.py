"""A fixed classifier (Eq. 7), with which a module of one layer needs no back-propagation."""

from __future__ import annotations

from torch import nn

import sgr_kernels as sk

from ..errors import UsageError
from ..networks.network import Features
from . import register
from .token_head import MeanToken


@register("etf")
def etf(features: Features, num_classes: int) -> nn.Module:
    """Average over positions and a fixed equiangular tight frame (Eq. 7): nothing to learn."""
    try:
        classifier = sk.ETFClassifier(num_classes, features.channels)
    except ValueError as error:
        raise UsageError(f"--head etf needs wider modules (--width) or another --head: {error}") from error
    return sk.CrossEntropyHead(classifier, MeanToken() if features.kind == "tokens" else None)
