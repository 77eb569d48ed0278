"""What the arguments of a call are like."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..torch_internals import tree_leaves


def has_floats(arguments: tuple[tuple, dict]) -> bool:
    args, _ = arguments
    is_usual = len(args) > 0 and isinstance(args[0], Tensor) and args[0].is_floating_point()
    leaves = [] if is_usual else tree_leaves(arguments)
    return is_usual or any(
        isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) for leaf in leaves
    )


def carries_gradient(arguments: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(arguments))


def written_argument(func: Callable, args: tuple, kwargs: dict, result: Any) -> Tensor | None:
    """The argument into which the function wrote its result, if it did."""
    if "out" in kwargs:
        return kwargs["out"]
    return args[0] if args and (result is args[0] or func is Tensor.__setitem__) else None
