"""Which dtypes operators take and answer in, and checks whose errors name the argument, what was given and expected."""

import math

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def loss_dtype(like: Tensor) -> torch.dtype:
    """Dtype of losses, residuals and sums: float64 for float64 tensors, float32 for all others."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_floating(name: str, value: object) -> None:
    check_tensor(name, value)
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {value.dtype}")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """A floating-point tensor of the same dtype, on the same device."""
    check_floating(name, value)
    check_match(name, value, other_name, other)


def check_match(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Same dtype and device."""
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name} {other.dtype}, got {value.dtype}")
    check_device(name, value, other_name, other)


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} {other.device}, got {value.device}")


def check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(value.shape)}")


def check_number(name: str, value: object, bound: str = ">= 0") -> None:
    """A finite number, at or above 0; above it if ``bound`` is "> 0"."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be a number {bound}, got a tensor of shape {tuple(value.shape)}")
    try:
        fits = value > 0 if bound == "> 0" else value >= 0
    except TypeError:
        raise TypeError(f"{name} must be a number {bound}, got {type(value).__name__}") from None
    if not fits:
        raise ValueError(f"{name} must be {bound}, got {value}")
    if value == math.inf:
        raise ValueError(f"{name} must be finite, got {value}")


def check_number_or_tensor(name: str, value: object) -> None:
    """:func:`check_number`, or a 0-d tensor, whose value is not looked at: a GPU would have to be waited for."""
    if not isinstance(value, Tensor):
        check_number(name, value)
    elif value.dim() != 0:
        raise ValueError(f"{name} must be a number or a 0-d tensor, got shape {tuple(value.shape)}")
