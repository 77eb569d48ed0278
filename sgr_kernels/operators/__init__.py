"""The operators of this library, one folder each; :mod:`.common` says what it takes to be one."""

from . import (  # noqa: F401  (an operator is there once it is imported)
    conv2d_relu,
    cross_entropy,
    gate_bits,
    linear_relu,
    relu_backward,
    row_norms,
    sgr_loss,
    sgr_residual,
    sgr_shift,
    sgr_step_length,
)
from .common.operator import Operator, registered

__all__ = ["Operator", "registered"]
