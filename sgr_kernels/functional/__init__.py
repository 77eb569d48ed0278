"""The functions users call."""

from .etf import etf_classifier
from .layers import conv2d_relu, cross_entropy, linear_relu
from .relu_sgr import Conv2dReLUSGR, LinearReLUSGR, conv2d_relu_sgr, linear_relu_sgr
from .residual import check_options, sgr_loss, sgr_residual

__all__ = [
    "Conv2dReLUSGR",
    "LinearReLUSGR",
    "check_options",
    "conv2d_relu",
    "conv2d_relu_sgr",
    "cross_entropy",
    "etf_classifier",
    "linear_relu",
    "linear_relu_sgr",
    "sgr_loss",
    "sgr_residual",
]
