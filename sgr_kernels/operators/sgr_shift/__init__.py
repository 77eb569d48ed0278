"""sgr_shift: x + factor * v without v, from the coefficients of :mod:`..sgr_loss`.

Kernels: csrc/sgr_shift/kernel.cuh (CUDA) and kernel.h (CPU), :mod:`.triton`, :mod:`.reference`.
"""

from ..common.comparison import numbers
from ..common.operator import Operator
from ..sgr_loss import example_of_rows
from . import reference


def _triton(*args):
    from .triton import sgr_shift

    return sgr_shift(*args)


def _fake(x, delta, target, alpha, beta, factor):
    return x.new_empty(x.shape)


def _example(dtype):
    for rows in example_of_rows(dtype):
        yield numbers(*rows[0].shape, dtype=dtype, seed=4), *rows, 0.75


# x + factor * (alpha_b delta_b + beta_b target_b), of rows (B, n) with unit stride along a row; alpha and beta (B,)
sgr_shift = Operator(
    "sgr_shift(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, float factor) -> Tensor",
    fake=_fake,
    reference=reference.sgr_shift,
    triton=_triton,
    example=_example,
)
