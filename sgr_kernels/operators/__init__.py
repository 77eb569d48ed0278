"""The operators of this library, one folder each; :mod:`.common` says what it takes to be one."""

from . import conv2d_relu as conv2d_relu
from . import cross_entropy as cross_entropy
from . import gate_bits as gate_bits
from . import linear_relu as linear_relu
from . import linear_relu_delta as linear_relu_delta
from . import linear_relu_weight_grad as linear_relu_weight_grad
from . import relu_backward as relu_backward
from . import row_norms as row_norms
from . import sgr_loss as sgr_loss
from . import sgr_residual as sgr_residual
from . import sgr_shift as sgr_shift
from .common.operator import Operator as Operator
from .common.operator import registered as registered
