"""Handwritten digits, which come with scikit-learn."""

from __future__ import annotations

import torch

from . import Facts, Splits, register
from .argument import refuse_argument
from .splits import Images, stratified_order

FRACTIONS = (0.6, 0.2)  # training and validation; the rest is for the test


@register("digits", Facts(10, (1, 8, 8)))
def digits(argument: str) -> Splits:
    """scikit-learn's 1797 gray digits of 8 x 8 pixels, no download."""
    from sklearn.datasets import load_digits

    refuse_argument("digits", argument)
    loaded = load_digits()
    images = Images(torch.tensor(loaded.images, dtype=torch.uint8).unsqueeze(1), torch.tensor(loaded.target).long())
    order = stratified_order(images.labels)
    first, second = (round(fraction * len(images)) for fraction in (FRACTIONS[0], sum(FRACTIONS)))
    return Splits(*(images.subset(part) for part in (order[:first], order[first:second], order[second:])))
