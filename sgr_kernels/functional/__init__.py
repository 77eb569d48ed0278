"""The functions users call."""

from .cross_entropy import cross_entropy
from .etf import etf_classifier
from .relu_layers import conv2d_relu, linear_relu
from .relu_sgr import Conv2dReLUSGR, LinearReLUSGR, conv2d_relu_sgr, linear_relu_sgr
from .sgr_loss import sgr_loss, sgr_residual

__all__ = [
    "Conv2dReLUSGR",
    "LinearReLUSGR",
    "conv2d_relu",
    "conv2d_relu_sgr",
    "cross_entropy",
    "etf_classifier",
    "linear_relu",
    "linear_relu_sgr",
    "sgr_loss",
    "sgr_residual",
]
