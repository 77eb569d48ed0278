"""Declarations of a network's own operations for ``engine="directional"``: smooth, or with a rule of its own."""

import functools
from collections.abc import Callable
from types import BuiltinFunctionType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

import torch
from torch import Tensor

from ..products import KINDS
from ..torch_internals import OWN_AUTOGRAD_FUNCTIONS, announce_when_compiled, autograd_function_of, overridable
from .lists import CONSTANT, PRODUCTS, SHAPE_ONLY, SMOOTH, functions_called
from .origins import Calls, is_view, nodes_from
from .randomness import HIDDEN
from .tape import DECLARED, NO_GATES, RULES

_OPERATORS = (type(torch.ops.aten.relu), type(torch.ops.aten.relu.default))
_OF_TORCH = {function for functions in torch.overrides.get_overridable_functions().values() for function in functions}

# Autograd Functions in these modules need no declaration: this package's own, torch's for recomputing, and those of
# compiled graphs, which were traced with their gates.
_KNOWN_MODULES = ("sgr_kernels.", *OWN_AUTOGRAD_FUNCTIONS)
_SMOOTH_FUNCTIONS: set[type[torch.autograd.Function]] = set()


def smooth(function: Callable) -> Callable:
    """Declare that an operation is smooth in its tensors, with a backward pass that is its exact derivative.

    ``engine="directional"`` does not look inside: its step allows for convolutions, matrix products and recurrent
    layers there, in the precision that torch permits. Random numbers that the operation draws from torch's global
    stream are drawn again in other passes. Usable as a decorator.

    Args:
        function: of torch, an operator (``torch.ops.name.op``), another function, or a subclass of
            ``torch.autograd.Function`` (for its ``apply``).

    Returns:
        What a network must call: a function of torch or an operator as it is; for any other, whose calls the engine
        would not see, a function that does the same and announces its calls.

    Raises:
        TypeError: ``function`` is not a function.
    """
    announced = _announced(function, "smooth")
    if _is_autograd_function(function):
        _SMOOTH_FUNCTIONS.add(function)
    SMOOTH.add(announced)
    HIDDEN.add(announced)
    NO_GATES.discard(announced)
    return announced


def gate(function: Callable) -> Callable[[Callable], Callable]:
    """Declare how an operation with kinks is computed with frozen gates (``engine="directional"``). A decorator.

    The function below the decorator is the rule of ``function``: called in its place, with the same arguments after an
    object ``gates``, wherever the engine runs the network. It takes every decision by ``gates.decide(choose, *args)``,
    which gives ``choose(*args)``, a tensor of bool or of indices, in the first pass, and the same tensor again in every
    other. The rest must be smooth and must agree with ``function``, in its derivative too::

        @sk.gate(F.softshrink)
        def softshrink(gates, input, lambd=0.5):
            above, below = gates.decide(torch.gt, input, lambd), gates.decide(torch.lt, input, -lambd)
            return torch.where(above, input - lambd, torch.where(below, input + lambd, 0.0 * input))

    A rule makes the same decisions in the same order in every pass. The engine does not look inside: a comparison
    without ``gates.decide`` is not frozen, and other rules do not apply. It holds for that one function: methods
    (``torch.Tensor.relu``), overloads of an operator and forms that work in place (``torch.relu_``) need rules of their
    own. One that works in place decides first, then returns ``input.copy_(result)``; where ``function`` has an argument
    ``inplace``, so must the rule. A rule takes precedence over :func:`smooth` and over the engine's own lists of
    torch's functions, and replaces an earlier rule. Declare it before the network is compiled.

    Args:
        function: as for :func:`smooth`.

    Returns:
        A decorator of rules. It gives, in place of the rule, what a network must call: as for :func:`smooth`.

    Raises:
        TypeError: ``function`` or the rule is not a function.
        ValueError: the rule is itself a function with a rule: each of several functions needs a call of its own.
    """
    announced = _announced(function, "gate")

    def register(rule: Callable) -> Callable:
        if not callable(rule):
            raise TypeError(f"the rule of {_named(function)} must be a function of (gates, ...), got {_named(rule)}")
        if rule in RULES:
            raise ValueError(f"the rule of {_named(function)} must be a rule, got {_named(rule)}, which has one itself")
        SHAPE_ONLY.discard(announced)
        CONSTANT.discard(announced)
        NO_GATES.discard(announced)
        RULES[announced] = rule
        if announced is function and not isinstance(function, _OPERATORS) and function not in _OF_TORCH:
            announce_when_compiled(function)
        return announced

    return register


def refuse_unseen(calls: Calls, loss: Tensor, source: Tensor) -> None:
    """Look in the graph of ``loss`` for what the calls of functions do not explain: function modes did not see it.

    Raises:
        ValueError: names a node between ``source`` and ``loss``, or the autograd Function that made it and is not
            known to be smooth.
    """
    for node in calls.unseen(loss):
        function = autograd_function_of(node)
        name = node.name() if function is None else f"{function.__module__}.{function.__qualname__}"
        if function in _SMOOTH_FUNCTIONS or (function is not None and name.startswith(_KNOWN_MODULES)):
            continue
        # Compiled code is one node, an autograd Function of torch; some of its results are views of what that gives.
        of_compiled_code = is_view(node) and calls.beside_compiled_code(node)
        if of_compiled_code or not _leads_to(node, source):
            continue
        if function is None:
            raise ValueError(
                f"{name} comes from code whose calls engine='directional' does not see (scripted, traced, in C++ or in "
                f"another thread): call it as Python in this thread, or as a function {DECLARED}"
            )
        raise ValueError(f"the autograd Function {name} may have kinks: it must be {DECLARED}")


def _leads_to(node: Any, source: Tensor) -> bool:
    return any(getattr(other, "variable", None) is source for other in nodes_from([node]))


def _announced(function: Callable, declaration: str) -> Callable:
    """The function itself if function modes see its calls, else one that does the same and announces its calls."""
    announced = _seen(function, declaration)
    if announced is not function or isinstance(function, _OPERATORS):
        PRODUCTS.setdefault(announced, KINDS)  # nobody looks inside
    return announced


def _seen(function: Callable, declaration: str) -> Callable:
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
