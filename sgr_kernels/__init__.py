"""Successive Gradient Reconciliation (Yang et al., ICML 2024) for PyTorch: fused kernels and local training steps."""

from ._version import __version__
from .backends import backend, backends
from .double_backward import differentiated_twice
from .engines import LocalStep, local_step, overlapping
from .functional import (
    Conv2dReLUSGR,
    LinearReLUSGR,
    conv2d_relu,
    conv2d_relu_sgr,
    cross_entropy,
    etf_classifier,
    linear_relu,
    linear_relu_sgr,
    sgr_loss,
    sgr_residual,
)
from .gates import gate, smooth
from .modules import Conv2dReLU, CrossEntropyHead, ETFClassifier, LinearReLU, SGRLoss
from .relative_weight import RelativeWeight

__all__ = [
    "Conv2dReLU",
    "Conv2dReLUSGR",
    "CrossEntropyHead",
    "ETFClassifier",
    "LinearReLU",
    "LinearReLUSGR",
    "LocalStep",
    "RelativeWeight",
    "SGRLoss",
    "__version__",
    "backend",
    "backends",
    "conv2d_relu",
    "conv2d_relu_sgr",
    "cross_entropy",
    "differentiated_twice",
    "etf_classifier",
    "gate",
    "linear_relu",
    "linear_relu_sgr",
    "local_step",
    "overlapping",
    "sgr_loss",
    "sgr_residual",
    "smooth",
]
