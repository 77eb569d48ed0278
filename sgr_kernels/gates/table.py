"""Which function of torch, and of this package, takes which form with frozen gates."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import mixed_precision, ops
from ..functional import conv2d_relu, cross_entropy, linear_relu
from . import pooling, rules
from .lists import SMOOTH, functions_called
from .tape import GATED, Gates

# By name: functions, methods, and forms that work in place
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
    """Conversions to integers are steps."""

    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        y = function(*args, **kwargs)
        return y if y.is_floating_point() else gates.decide(lambda: y)

    return gated


def _euclidean(function: Callable) -> Callable:
    """Norms of order 2. Others have kinks."""

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
        for form in (name, f"__{name}__"):
            GATED.update(dict.fromkeys(functions_called(form, _SPACES), rule))
        for form in (f"{name}_", f"__i{name}__"):
            GATED.update(dict.fromkeys(functions_called(form, _SPACES), _inplace(rule)))
    for name in ("to", "type"):
        GATED.update({function: _converted(function) for function in functions_called(name, (Tensor,))})
    for name in ("norm", "vector_norm", "normalize"):
        GATED.update({function: _euclidean(function) for function in functions_called(name)})
    # Eager code announces the functions of this package, compiled code calls their operators.
    GATED.update(dict.fromkeys((linear_relu, ops.native.linear_relu), _linear_relu))
    GATED.update(dict.fromkeys((conv2d_relu, ops.native.conv2d_relu), _conv2d_relu))
    SMOOTH.update((cross_entropy, ops.native.cross_entropy, ops.triton.cross_entropy))


_fill()
