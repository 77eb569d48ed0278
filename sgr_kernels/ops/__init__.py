"""Custom operators: ``native.<name>`` (namespace sgr) and ``triton.<name>`` (namespace sgr_triton).

One file a group of operators; :mod:`.registry` says what it takes to be one.
"""

from . import affine_relu, cross_entropy, gate_bits, linear_relu_sgr, relu, sgr_loss
from .registry import native, of, triton
from .sgr_loss import REDUCTIONS

__all__ = [
    "REDUCTIONS",
    "affine_relu",
    "cross_entropy",
    "gate_bits",
    "linear_relu_sgr",
    "native",
    "of",
    "relu",
    "sgr_loss",
    "triton",
]
