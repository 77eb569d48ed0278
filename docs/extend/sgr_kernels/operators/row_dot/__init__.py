"""row_dot: the dot products of the rows of two matrices, accumulated in float64, and their derivative.

Kernels: csrc/row_dot/cpu.cpp and cuda.cu, :mod:`.triton`, :mod:`.reference`.
"""

from __future__ import annotations

import torch

from ..common.checks import loss_dtype
from ..common.comparison import numbers
from ..common.operator import Derivative, Operator
from . import reference


def _triton(*args):
    from .triton import row_dot

    return row_dot(*args)


def _triton_backward(*args):
    from .triton import row_dot_backward

    return row_dot_backward(*args)


def _fake(a, b):
    torch._check(a.dim() == 2, lambda: f"row_dot expects rows (B, n), got shape {tuple(a.shape)}")
    return a.new_empty(a.shape[0], dtype=loss_dtype(a))


def _fake_backward(grad, a, b):
    return a.new_empty(a.shape), a.new_empty(a.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, alike, grad):
    return alike(row_dot_backward)(grad.contiguous(), *ctx.saved_tensors)


def _example(dtype):
    yield tuple(numbers(3, 5000, dtype=dtype, seed=seed) for seed in (0, 1))


def _example_backward(dtype):
    for a, b in _example(dtype):
        yield numbers(len(a), dtype=loss_dtype(a)), a, b


# grad (B,) contiguous, in the dtype of the dots; a, b as below -> the gradients of a and b, (B, n) in their dtype
row_dot_backward = Operator(
    "row_dot_backward(Tensor grad, Tensor a, Tensor b) -> (Tensor grad_a, Tensor grad_b)",
    fake=_fake_backward,
    reference=reference.row_dot_backward,
    triton=_triton_backward,
    example=_example_backward,
)
# a, b (B, n) of one dtype with unit stride along a row -> (B,), float32 (float64 for float64)
row_dot = Operator(
    "row_dot(Tensor a, Tensor b) -> Tensor",
    fake=_fake,
    reference=reference.row_dot,
    triton=_triton,
    derivative=Derivative(_save, _backward, (row_dot_backward,)),
    example=_example,
)
