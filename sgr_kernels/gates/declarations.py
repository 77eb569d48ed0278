"""What a network's own operations declare to ``engine="directional"``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType

import torch

from ..overrides import overridable
from .functions import DECLARED
from .lists import SMOOTH, functions_called

_OPERATORS = (type(torch.ops.aten.relu), type(torch.ops.aten.relu.default))
_OF_TORCH = {function for functions in torch.overrides.get_overridable_functions().values() for function in functions}


def smooth(function: Callable) -> Callable:
    """Declare that the result of an operation is a smooth function of its tensors (``engine="directional"``).

    What goes on inside is not looked at. Usable as a decorator.

    Args:
        function: of torch, an operator (``torch.ops.name.op``), another function, or a subclass of
            ``torch.autograd.Function`` (for its ``apply``).

    Returns:
        What a network must call: functions of torch and operators as they are; for others, which the engine would not
        see, a function that does the same and announces itself.

    Raises:
        TypeError: ``function`` is not a function.
    """
    announced = _announced(function, "smooth")
    if _is_autograd_function(function):
        DECLARED.add(function)
    SMOOTH.add(announced)
    return announced


def _announced(function: Callable, declaration: str) -> Callable:
    """The function itself where function modes see its calls, else one that does the same and is seen."""
    if _is_autograd_function(function):
        apply = function.apply
        return overridable(functools.wraps(function, updated=())(lambda *args: apply(*args)))
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"sgr_kernels.{declaration}() expects a function, an operator or a subclass of torch.autograd.Function, "
            f"got {_named(function)}"
        )
    return function if _is_seen(function) else overridable(function)


def _is_autograd_function(function: Callable) -> bool:
    return isinstance(function, type) and issubclass(function, torch.autograd.Function)


def _is_seen(function: Callable) -> bool:
    if isinstance(function, _OPERATORS) or function in _OF_TORCH:
        return True
    if isinstance(function, BuiltinFunctionType | MethodDescriptorType | WrapperDescriptorType):
        return function in functions_called(function.__name__)
    code = getattr(function, "__code__", None)
    return code is not None and "handle_torch_function" in code.co_names


def _named(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__name__)
