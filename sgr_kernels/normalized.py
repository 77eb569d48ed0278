"""relu(batch_norm(z)), which a convolution need not keep: batch norm keeps z, and ReLU its gates.

On a GPU the convolutions of :mod:`.mixed_precision` compute it again in their backward passes. For one sweep over it
a residual network keeps a sixth less. That makes room for what a step of the directional engine has beside its second
pass: the target, and what the first pass gave.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .gpu_path import as_on_gpu
from .operators.gate_bits import replay_relu_
from .torch_internals import batch_norm_of_batch, in_function_transform, version_of


class Normalized(NamedTuple):
    """How a tensor was computed. It is an attribute of that tensor.

    Attributes:
        tensors: what ``again`` needs: z (B, C, ...) with the strides of the tensor; weight, bias, mean and 1 / standard
            deviation of the batch norm, (C,); of a ReLU behind it the bits, in the order of the elements in memory.
        again: function that computes it from these.
        version: of the tensor when it was computed.
    """

    tensors: tuple[Tensor, ...]
    again: Callable[[Sequence[Tensor]], Tensor]
    version: int


def batch_norm(
    input: Tensor, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    """F.batch_norm; the result knows how it was computed."""
    traced = torch.compiler.is_compiling() or in_function_transform()
    if traced or not as_on_gpu(input) or not is_by_batch(input, weight, bias, training, eps):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output, *statistics = batch_norm_of_batch(input, weight, bias, running_mean, running_var, momentum, eps)
    if output.stride() == input.stride() and input.dtype == output.dtype:
        tensors = tuple(tensor.detach() for tensor in (input, weight, bias, *statistics))
        output.normalized = Normalized(tensors, partial(_normalized, eps), version_of(output))
    return output


def is_by_batch(input: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, eps: float) -> bool:
    """Whether a batch norm is that of ``batch_norm_of_batch``: by the statistics of its input, with parameters."""
    return weight is not None and bias is not None and training and eps > 0 and input.numel() > 0


def how_computed(tensor: Tensor) -> Normalized | None:
    """None where that is unknown, or something was written into it since."""
    how = getattr(tensor, "normalized", None)
    return how if how is not None and how.version == version_of(tensor) else None


def note_relu(y: Tensor, how: Normalized, bits: Tensor, slope: float) -> None:
    """``y`` is the leaky ReLU of a tensor that was computed so, with the bits in the order of its memory."""
    if y.stride() == how.tensors[0].stride():
        y.normalized = Normalized((*how.tensors, bits), partial(_rectified, how.again, slope), version_of(y))


def _normalized(eps: float, tensors: Sequence[Tensor]) -> Tensor:
    z, weight, bias, mean, inverse_std = tensors
    variance = inverse_std.square().reciprocal() - eps
    return torch.native_batch_norm(z, weight, bias, mean, variance, False, 0.0, eps)[0]


def _rectified(again: Callable[[Sequence[Tensor]], Tensor], slope: float, tensors: Sequence[Tensor]) -> Tensor:
    *before, bits = tensors
    y = again(before)
    replay_relu_(y.as_strided((y.numel(),), (1,)), bits, slope)
    return y
