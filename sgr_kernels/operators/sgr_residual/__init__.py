"""sgr_residual: the loss of :mod:`..sgr_loss` and its gradient v = dL/d delta in one go.

Kernels: csrc/sgr_residual/kernel.cuh (CUDA) and cpu.cpp, :mod:`.triton`, :mod:`.reference`.
"""

from ..common import options as opt
from ..common.checks import loss_dtype
from ..common.operator import Operator
from ..sgr_loss import example
from . import reference


def _triton(*args):
    from .triton import sgr_residual

    return sgr_residual(*args)


def _fake(delta, target, *options):
    dtype = loss_dtype(delta)
    return delta.new_empty((), dtype=dtype), delta.new_empty(delta.shape, dtype=dtype)


def _example(dtype):
    """That of the loss. On CUDA also rows in whole packs of 16 bytes, rows that follow each other in a block, and rows
    of half precision that are too long for one block.
    """
    return example(dtype, shapes=((3, 64), (3, 7), (2048, 70), (2, 20_003), (2, 60_003)))


# rows (B, n) with unit stride along a row; v (B, n), float32 (float64 for float64)
sgr_residual = Operator(
    f"sgr_residual(Tensor delta, Tensor target, {opt.SCHEMA}) -> (Tensor loss, Tensor v)",
    fake=_fake,
    reference=reference.sgr_residual,
    triton=_triton,
    example=_example,
)
