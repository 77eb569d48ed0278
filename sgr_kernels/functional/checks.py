"""Argument checks: an error names the argument, what was given and what was expected."""

from torch import Tensor

from ..operators.common.dtypes import FLOATING


def check_floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {value.dtype}")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Same dtype and device."""
    check_floating(name, value)
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name} {other.dtype}, got {value.dtype}")
    if value.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} {other.device}, got {value.device}")


def check_shape(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(value.shape)}")
