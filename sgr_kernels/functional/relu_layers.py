"""linear_relu and conv2d_relu: layers whose backward and double backward are fused."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..operators.common.checks import check_floating, check_like, check_shape
from ..operators.conv2d_relu import conv2d_relu as conv2d_operator
from ..operators.linear_relu import linear_relu as linear_operator
from ..torch_internals import overridable


@overridable
def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(x W^T + b), differentiable twice: Algorithm 1 runs through it with fused kernels.

    Keeps x, W and the output for the backward pass; the gates are output > 0. Under autocast the arguments are cast as
    those of ``torch.nn.functional.linear``. A third derivative raises.

    Args:
        x: (B, ..., n); float64, float32, bfloat16 or float16.
        weight: (m, n), dtype and device of ``x``.
        bias: (m,).

    Returns:
        (B, ..., m).

    Raises:
        TypeError, ValueError: dtypes, devices or shapes that do not fit, or an ``x`` without a batch dimension.
    """
    x, weight, bias = cast_for_autocast(x, weight, bias)
    check_linear(x, weight, bias)
    return linear_operator(x, weight, bias)


@overridable
def conv2d_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """relu(conv2d(x, W) + b), differentiable twice, otherwise as :func:`linear_relu`.

    Args:
        x: (B, C, H, W), contiguous or channels-last.
        weight: (m, C / groups, kH, kW).
        bias: (m,).
        stride, padding, dilation: a number or a pair; padding is by zeros, and "same" and "valid" are not taken.
        groups: as ``torch.nn.functional.conv2d``.

    Returns:
        (B, m, H', W').

    Raises:
        TypeError, ValueError: dtypes, devices or shapes that do not fit, an ``x`` without a batch dimension, or a
            padding given by name.
    """
    x, weight, bias = cast_for_autocast(x, weight, bias)
    geometry = conv_geometry(x, weight, bias, stride, padding, dilation, groups)
    return conv2d_operator(x, weight, bias, *geometry)


def cast_for_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast does to the arguments of a matrix product."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if device == "meta" or not torch.is_autocast_enabled(device):  # which fails for a device that has no autocast
        return tensors
    dtype = torch.get_autocast_dtype(device)
    lower = (torch.float32, torch.bfloat16, torch.float16)
    return tuple(t.to(dtype) if t is not None and t.dtype in lower else t for t in tensors)


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """A context without autocast, which "meta" never has."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check_layer(x, weight, bias)
    if x.dim() < 2:
        raise ValueError(f"x must have a batch dimension, got shape {tuple(x.shape)}")
    if weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight must have shape (m, {x.shape[-1]}) for x {tuple(x.shape)}, got {tuple(weight.shape)}")


def conv_geometry(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> tuple:
    """Stride, padding and dilation as pairs, and groups.

    Raises:
        TypeError, ValueError: not a convolution of ``x`` with ``weight``.
    """
    _check_layer(x, weight, bias)
    if isinstance(padding, str):
        raise ValueError(f"padding must be a number or a pair, got {padding!r}")
    if x.dim() != 4:
        raise ValueError(f"x must have shape (B, C, H, W), got {tuple(x.shape)}")
    if weight.dim() != 4 or weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        raise ValueError(
            f"weight must have shape (m, {x.shape[1]} / groups, kH, kW) with m divisible by groups={groups} for x "
            f"{tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    return *(_pair(value) for value in (stride, padding, dilation)), groups


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _check_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floating("x", x)
    check_like("weight", weight, "x", x)
    if bias is not None:
        check_like("bias", bias, "x", x)
        check_shape("bias", bias, weight.shape[:1])
