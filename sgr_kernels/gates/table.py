"""Which rule each function of torch and of this package has: importing this module registers them."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import mixed_precision
from ..functional import conv2d_relu, cross_entropy, linear_relu
from ..modules import average_positions
from ..operators import conv2d_relu as conv2d_relu_operators
from ..operators import cross_entropy as cross_entropy_operators
from ..operators import linear_relu as linear_relu_operators
from ..products import CONVOLUTION, MATRIX
from . import pooling, rules
from .declarations import gate
from .dropout import dropout
from .lists import PRODUCTS, SMOOTH, functions_called
from .randomness import DROPOUTS
from .tape import NO_GATES, Gates

# Functions, methods and in-place forms with these names have the rules with these names.
_NAMES = """
    relu relu6 leaky_relu prelu hardtanh hardsigmoid hardswish elu celu selu threshold abs clamp clamp_min clamp_max
    maximum minimum max min amax amin sort topk div
"""
_ALONG_DIMENSIONS = ("max", "min", "amax", "amin")
_SYNONYMS = {"absolute": rules.abs, "clip": rules.clamp, "divide": rules.div}


def _linear_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return rules.relu(gates, mixed_precision.linear(x, weight, bias), inplace=True)


def _conv2d_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs) -> Tensor:
    return rules.relu(gates, mixed_precision.conv2d(x, weight, bias, *args, **kwargs), inplace=True)


def _conversion(function: Callable) -> Callable:
    """The rule of a conversion: to integers it rounds, which is a decision."""

    def rule(gates: Gates, *args, **kwargs) -> Tensor:
        y = function(*args, **kwargs)
        return y if y.is_floating_point() else gates.decide(lambda: y)

    return rule


def _norm(function: Callable) -> Callable:
    """The rule of a norm: of order 2 it is smooth, otherwise it has kinks."""

    def rule(gates: Gates, *args, **kwargs) -> Tensor:
        order = kwargs.get("ord", kwargs.get("p", args[1] if len(args) > 1 else None))
        if order in ("fro", 2, None):
            return function(*args, **kwargs)
        return gates.without_rule(function, args, kwargs)

    return rule


def _register() -> None:
    for name, rule in ({name: getattr(rules, name) for name in _NAMES.split()} | _SYNONYMS).items():
        for form in (name, f"__{name}__"):
            _give_rule(form, rule)
        for form in (f"{name}_", f"__i{name}__"):
            _give_rule(form, functools.partial(rule, inplace=True))
    for dims in (1, 2, 3):
        for name, make in (("max_pool", pooling.max_pool), ("adaptive_max_pool", pooling.adaptive_max_pool)):
            _give_rule(f"{name}{dims}d", make(dims, give_indices=False))
            _give_rule(f"{name}{dims}d_with_indices", make(dims, give_indices=True))
    for function in DROPOUTS:
        gate(function)(dropout(function))
    for function in functions_called("to", (Tensor,)) | functions_called("type", (Tensor,)):
        gate(function)(_conversion(function))
    for name in ("norm", "vector_norm", "normalize"):
        for function in functions_called(name):
            gate(function)(_norm(function))
    for function in (linear_relu, *linear_relu_operators.linear_relu.overloads()):
        gate(function)(_linear_relu)
        PRODUCTS[function] = (MATRIX,)
    for function in (conv2d_relu, *conv2d_relu_operators.conv2d_relu.overloads()):
        gate(function)(_conv2d_relu)
        PRODUCTS[function] = (CONVOLUTION,)
    for own in (average_positions, cross_entropy, *cross_entropy_operators.cross_entropy.overloads()):
        SMOOTH.add(own)
        NO_GATES.add(own)


def _give_rule(name: str, rule: Callable) -> None:
    rule = _with_names_of_numpy(rule) if name.strip("_") in _ALONG_DIMENSIONS else rule
    for function in functions_called(name, (torch, Tensor, F)):
        gate(function)(rule)


def _with_names_of_numpy(rule: Callable) -> Callable:
    """torch takes ``axis`` for ``dim`` and ``keepdims`` for ``keepdim``."""

    def renamed(gates: Gates, *args, axis=None, keepdims=None, **kwargs):
        kwargs |= {} if axis is None else {"dim": axis}
        kwargs |= {} if keepdims is None else {"keepdim": keepdims}
        return rule(gates, *args, **kwargs)

    return renamed


_register()
