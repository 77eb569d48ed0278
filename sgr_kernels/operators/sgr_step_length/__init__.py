"""sgr_step_length: how far along v a difference is taken; :mod:`sgr_kernels.engines.step_length` says why so far.

Behind the norms of rows it works on a number or two a sample, in float64: forty operators of torch in one, whose
launches would take longer.
Kernels: csrc/sgr_step_length/kernel.cuh (CUDA) and cpu.cpp, with the formulas in law.h, :mod:`.triton`,
:mod:`.reference`.
"""

import torch

from ..common.comparison import numbers
from ..common.operator import Operator
from . import reference


def _triton(*args):
    from .triton import sgr_step_length

    return sgr_step_length(*args)


def _fake(loss, coef, x, *others):
    torch._check(coef.dim() == 2, lambda: f"sgr_step_length expects coef (4, B), got shape {tuple(coef.shape)}")
    return coef.new_empty(()), coef.new_empty((2, coef.shape[1]))


def _example(dtype):
    loss = numbers(1, dtype=dtype).abs().add(0.5).view(())
    for batch, outputs in (3, 3), (300, 300), (300, 5):
        coef = numbers(4, batch, dtype=torch.float64)
        coef[3].abs_()
        x, delta = (numbers(batch, 7, dtype=dtype, seed=seed) for seed in (1, 2))
        ends = (numbers(outputs, 9, dtype=dtype, seed=seed) for seed in (3, 4))
        yield loss, coef, x, delta, *ends, 0.5, 0.01, 0.05, 0.75, 10.0
    yield loss, coef, x, delta, None, None, 1.0, 0.01, 0.05, 0.75, 10.0


# loss 0-d; coef (4, B) float64 as sgr_loss gives it; the others with unit stride along a row, each in a dtype of its
# own: x and delta (B, n), output and delta_output (B', m) or None. size_ratio: the square root of how many elements of
# the output there are for each of x. typical, longest, gain_power and most are those of the law. Gives 1 / h, 0-d; and
# h alpha, h beta, (2, B).
sgr_step_length = Operator(
    "sgr_step_length(Tensor loss, Tensor coef, Tensor x, Tensor delta, Tensor? output, Tensor? delta_output, "
    "float size_ratio, float typical, float longest, float gain_power, float most) -> (Tensor inverse, Tensor step)",
    fake=_fake,
    reference=reference.sgr_step_length,
    triton=_triton,
    example=_example,
)
