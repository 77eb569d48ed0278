"""linear_relu_weight_grad: the second product of Eq. 35, A^T (x + factor v), whose operands are formed on the fly.

Only in Triton (:mod:`.triton`): other backends multiply with the library and fuse what lies between the products.
"""

from ..common.dtypes import loss_dtype
from ..common.operator import Operator


def _triton(*args):
    from .triton import linear_relu_weight_grad

    return linear_relu_weight_grad(*args)


def _fake(grad, output, x, delta, target, alpha, beta, factor, need_bias):
    m, n = grad.shape[1], x.shape[1]
    dtype = loss_dtype(grad)
    return grad.new_empty((m, n), dtype=dtype), grad.new_empty(m if need_bias else 0, dtype=dtype)


# grad, output (B, m), x, delta, target (B, n), alpha, beta (B,) -> grad_weight (m, n) = A^T (x + factor v) with
# A = grad * [output > 0] and v_b = alpha_b delta_b + beta_b target_b; grad_bias (m,) = sum_b A_b, or (0,)
linear_relu_weight_grad = Operator(
    "linear_relu_weight_grad(Tensor grad, Tensor output, Tensor x, Tensor delta, Tensor target, Tensor alpha,"
    " Tensor beta, float factor, bool need_bias) -> (Tensor grad_weight, Tensor grad_bias)",
    fake=_fake,
    triton=_triton,
    compiled=False,
)
