"""Which function of torch, and of this package, takes which form with frozen gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import mixed_precision
from ..functional import conv2d_relu, cross_entropy, linear_relu
from ..operators import conv2d_relu as conv2d_relu_operators
from ..operators import cross_entropy as cross_entropy_operators
from ..operators import linear_relu as linear_relu_operators
from . import pooling, rules
from .declarations import gate, smooth
from .lists import functions_called
from .tape import Gates

# Functions, methods and in-place forms with these names have the rules with these names.
_NAMES = """
    relu relu6 leaky_relu prelu hardtanh hardsigmoid hardswish elu celu selu threshold abs clamp clamp_min clamp_max
    maximum minimum max min amax amin sort topk div
"""
_SYNONYMS = {"absolute": rules.abs, "clip": rules.clamp, "divide": rules.div}
_SPACES = (torch, Tensor, F)


def _with_indices(pool: Callable) -> Callable:
    def gated(gates: Gates, *args, **kwargs):
        return pool(gates, *args[:6], **{**kwargs, "return_indices": True})

    return gated


def _inplace(rule: Callable) -> Callable:
    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        return rule(gates, *args, inplace=True, **kwargs)

    return gated


def _linear_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return rules.relu(gates, mixed_precision.linear(x, weight, bias), inplace=True)


def _conv2d_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs) -> Tensor:
    return rules.relu(gates, mixed_precision.conv2d(x, weight, bias, *args, **kwargs), inplace=True)


def _converted(function: Callable) -> Callable:
    """Of a conversion, which is a step where it gives integers."""

    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        y = function(*args, **kwargs)
        return y if y.is_floating_point() else gates.decide(lambda: y)

    return gated


def _euclidean(function: Callable) -> Callable:
    """Of a norm: that of order 2 is smooth, others have kinks."""

    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        order = kwargs.get("ord", kwargs.get("p", args[1] if len(args) > 1 else None))
        if order in ("fro", 2, None):
            return function(*args, **kwargs)
        return gates.other(function, args, kwargs)

    return gated


def _fill() -> None:
    forms = {name: getattr(rules, name) for name in _NAMES.split()} | _SYNONYMS
    for name in pooling.__all__:
        forms |= {name: getattr(pooling, name), f"{name}_with_indices": _with_indices(getattr(pooling, name))}
    for name, rule in forms.items():
        _gate_all((name, f"__{name}__"), rule)
        _gate_all((f"{name}_", f"__i{name}__"), _inplace(rule))
    for function in functions_called("to", (Tensor,)) | functions_called("type", (Tensor,)):
        gate(function)(_converted(function))
    for name in ("norm", "vector_norm", "normalize"):
        for function in functions_called(name):
            gate(function)(_euclidean(function))
    for function in (linear_relu, *linear_relu_operators.linear_relu.overloads()):
        gate(function)(_linear_relu)
    for function in (conv2d_relu, *conv2d_relu_operators.conv2d_relu.overloads()):
        gate(function)(_conv2d_relu)
    for function in (cross_entropy, *cross_entropy_operators.cross_entropy.overloads()):
        smooth(function)


def _gate_all(names: Iterable[str], rule: Callable) -> None:
    for name in names:
        for function in functions_called(name, _SPACES):
            gate(function)(rule)


_fill()
