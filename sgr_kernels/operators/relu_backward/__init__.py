"""relu_backward: the gradient behind the ReLU of a layer, A of Eq. 35, and the gradient of the layer's bias.

The operator sees (R, C, S) contiguous tensors: (B, features, 1) of a linear layer, (B, channels, H W) of an image, or
(B H W, channels, 1) of a channels-last one. :func:`through_relu` takes any layout.
Kernels: csrc/relu_backward/kernel.cuh (CUDA) and cpu.cpp, :mod:`.triton`, :mod:`.reference`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..common.checks import loss_dtype
from ..common.comparison import numbers
from ..common.operator import Operator
from . import reference


def _triton(*args):
    from .triton import relu_backward

    return relu_backward(*args)


def _fake(grad, output, sum_channels):
    torch._check(grad.dim() == 3, lambda: f"relu_backward expects (R, C, S), got shape {tuple(grad.shape)}")
    sums = grad.new_empty(grad.shape[1] if sum_channels else 0, dtype=loss_dtype(grad))
    return grad.new_empty(grad.shape), sums


def _example(dtype):
    for shape in (7, 2, 1), (40, 264, 1), (3, 5, 301):
        yield numbers(*shape, dtype=dtype), numbers(*shape, dtype=dtype, seed=1), True


# masked: grad where output > 0 (or NaN), else 0, (R, C, S). sums: of masked over R and S, (C,) float32 (float64 for
# float64), or (0,) without sum_channels
relu_backward = Operator(
    "relu_backward(Tensor grad, Tensor output, bool sum_channels) -> (Tensor masked, Tensor sums)",
    fake=_fake,
    reference=reference.relu_backward,
    triton=_triton,
    example=_example,
)


def through_relu(
    grad: Tensor, output: Tensor, features_last: bool, sum_features: bool = False
) -> tuple[Tensor, Tensor | None]:
    """``grad`` where ``output`` > 0, else 0, and its sum over all but the features, in one pass.

    Args:
        grad, output: (..., m) if ``features_last``, else (B, m, H, W); one dtype.
        sum_features: whether the sums are wanted.

    Returns:
        The masked gradient in the layout of ``output``, and the sums (m,), float32 (float64 for float64), or None.
    """
    images_first = not features_last and output.is_contiguous()
    rows, back = _channel_rows(output, features_last, images_first)
    masked, sums = relu_backward(_channel_rows(grad, features_last, images_first)[0], rows, sum_features)
    return back(masked), sums if sum_features else None


def _channel_rows(tensor: Tensor, features_last: bool, images_first: bool) -> tuple[Tensor, Callable]:
    """(R, C, S) contiguous, and the way back; a view where the layout allows it."""
    if features_last:
        return tensor.contiguous().view(-1, tensor.shape[-1], 1), lambda rows: rows.view(tensor.shape)
    if images_first:
        return tensor.contiguous().flatten(2), lambda rows: rows.view(tensor.shape)
    last = tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return last.reshape(-1, tensor.shape[1], 1), lambda rows: rows.view(last.shape).permute(0, 3, 1, 2)
