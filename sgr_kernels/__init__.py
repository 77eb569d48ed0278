"""Successive Gradient Reconciliation (Yang et al., ICML 2024) for PyTorch: fused kernels and local training steps."""

from ._version import __version__
from .backends import backend, backends
from .engines import LocalStep, local_step
from .functional import etf_classifier, sgr_loss, sgr_residual
from .modules import ETFClassifier, SGRLoss

__all__ = [
    "ETFClassifier",
    "LocalStep",
    "SGRLoss",
    "__version__",
    "backend",
    "backends",
    "etf_classifier",
    "local_step",
    "sgr_loss",
    "sgr_residual",
]
