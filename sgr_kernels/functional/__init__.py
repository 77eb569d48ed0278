"""The functions users call."""

from .cross_entropy import cross_entropy  # noqa: F401  (these names are the package's)
from .etf import etf_classifier  # noqa: F401
from .relu_layers import conv2d_relu, linear_relu  # noqa: F401
from .relu_sgr import Conv2dReLUSGR, LinearReLUSGR, conv2d_relu_sgr, linear_relu_sgr  # noqa: F401
from .sgr_loss import sgr_loss, sgr_residual  # noqa: F401
