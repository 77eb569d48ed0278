"""What a call is of, and what its arguments are like."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from ..torch_internals import tree_leaves


def has_floats(args: tuple, kwargs: dict) -> bool:
    """Whether there is a tensor that can have a gradient: integers have none."""
    if args and isinstance(args[0], Tensor) and args[0].is_floating_point():  # the usual case
        return True
    leaves = tree_leaves((args, kwargs))
    return any(isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) for leaf in leaves)


def carries_gradient(arguments: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(arguments))


def written_argument(func: Callable, args: tuple, kwargs: dict, result: Any) -> Tensor | None:
    """The argument into which the function wrote its result, if it did."""
    if "out" in kwargs:
        return kwargs["out"]
    return args[0] if args and (result is args[0] or func is Tensor.__setitem__) else None


def name_of(func: Any) -> str:
    """For errors."""
    if func is None:
        return "nothing"
    if not callable(func):
        return "a decision"
    if torch.compiler.is_compiling():  # the compiler cannot trace the rest
        return func.__name__
    return resolve_name(func) or getattr(func, "__qualname__", repr(func))
