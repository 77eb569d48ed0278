"""The functions with kinks, each once, with the decisions that choose among its smooth branches.

Record and replay share the definition: ``gates.decide`` decides in the one and remembers in the other. Branches and the
comparisons at the kinks are those of torch's derivatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..functional import conv2d_relu, cross_entropy, linear_relu
from . import pooling
from .relu import relu
from .smooth import SMOOTH, functions_called
from .tape import GATED, Gates


def _relu(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    return relu(gates, input, 0.0, inplace)


def _leaky_relu(gates: Gates, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return relu(gates, input, negative_slope, inplace)


def _relu6(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(gates, input, 0.0, 6.0, inplace)


def _hardtanh(
    gates: Gates, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    above, below = gates.decide(torch.gt, input, min_val), gates.decide(torch.lt, input, max_val)
    return _put(input, torch.where(above & below, input, _side(input, above, min_val, max_val)), inplace)


def _hardsigmoid(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    above, below = gates.decide(torch.gt, input, -3), gates.decide(torch.lt, input, 3)
    return _put(input, torch.where(above & below, input / 6 + 0.5, _side(input, above, 0.0, 1.0)), inplace)


def _hardswish(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    above, below = gates.decide(torch.gt, input, -3), gates.decide(torch.lt, input, 3)
    x = input.clone() if inplace else input  # a factor of its own derivative
    return _put(input, torch.where(above & below, x * (x + 3) / 6, torch.where(above, x, 0.0)), inplace)


def _prelu(gates: Gates, input: Tensor, weight: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (input.dim() - 2)] if input.dim() > 1 else [-1]
    return torch.where(gates.decide(torch.gt, input, 0), input, weight.to(input.dtype).view(shape) * input)


def _elu(gates: Gates, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _exponential(gates, input, 1.0, alpha, 1.0, inplace)


def _celu(gates: Gates, input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return _exponential(gates, input, 1.0, alpha, 1.0 / alpha, inplace)


def _selu(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    scale = 1.0507009873554804934193349852946
    return _exponential(gates, input, scale, scale * 1.6732632423543772848170429916717, 1.0, inplace)


def _exponential(gates: Gates, x: Tensor, slope: float, height: float, rate: float, inplace: bool) -> Tensor:
    """slope x above 0, height (exp(rate x) - 1) below."""
    is_open = gates.decide(torch.gt, x, 0)
    below = height * torch.expm1(rate * x.masked_fill(is_open, 0.0))  # the branch not taken must not overflow
    return _put(x, torch.where(is_open, slope * x, below), inplace)


def _threshold(gates: Gates, input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    return _put(input, torch.where(gates.decide(torch.gt, input, threshold), input, value), inplace)


def _abs(gates: Gates, input: Tensor, inplace: bool = False) -> Tensor:
    positive, negative = gates.decide(torch.gt, input, 0), gates.decide(torch.lt, input, 0)
    return _put(input, torch.where(positive, input, torch.where(negative, -input, 0.0 * input)), inplace)


def _clamp(gates: Gates, input: Tensor, min=None, max=None, inplace: bool = False) -> Tensor:
    y = input
    if min is not None:
        y = torch.where(gates.decide(torch.ge, y, min), y, min)
    if max is not None:
        y = torch.where(gates.decide(torch.le, y, max), y, max)
    return _put(input, y, inplace)


def _clamp_min(gates: Gates, input: Tensor, min, inplace: bool = False) -> Tensor:
    return _clamp(gates, input, min=min, inplace=inplace)


def _clamp_max(gates: Gates, input: Tensor, max, inplace: bool = False) -> Tensor:
    return _clamp(gates, input, max=max, inplace=inplace)


def _maximum(gates: Gates, input: Tensor, other: Tensor) -> Tensor:
    return _greater(gates, torch.gt, input, other)


def _minimum(gates: Gates, input: Tensor, other: Tensor) -> Tensor:
    return _greater(gates, torch.lt, input, other)


def _greater(gates: Gates, compare: Callable, x: Tensor, other: Tensor) -> Tensor:
    """The one of the two that wins; their mean where they are equal, as in torch's derivative."""
    wins, equal = gates.decide(compare, x, other), gates.decide(torch.eq, x, other)
    return torch.where(equal, (x + other) / 2, torch.where(wins, x, other))


def _max(gates: Gates, input: Tensor, dim=None, keepdim: bool = False, **kwargs):
    return _max_or_min(gates, torch.max, _maximum, input, kwargs.get("other", dim), keepdim)


def _min(gates: Gates, input: Tensor, dim=None, keepdim: bool = False, **kwargs):
    return _max_or_min(gates, torch.min, _minimum, input, kwargs.get("other", dim), keepdim)


def _max_or_min(gates: Gates, function: Callable, of_two: Callable, x: Tensor, dim, keepdim: bool):
    """torch gives three functions this name: of all elements, along a dimension, of two tensors."""
    if isinstance(dim, Tensor):
        return of_two(gates, x, dim)
    if dim is None:
        return _extreme(gates, function, x)
    indices = gates.decide(lambda: function(x, dim, keepdim=True)[1])
    return _along(x, indices, dim, keepdim)


def _amax(gates: Gates, input: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    return _extreme(gates, torch.amax, input, dim, keepdim)


def _amin(gates: Gates, input: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    return _extreme(gates, torch.amin, input, dim, keepdim)


def _extreme(gates: Gates, function: Callable, x: Tensor, dim=(), keepdim: bool = False) -> Tensor:
    """The mean of the elements that reach the extreme value, as in torch's derivative."""
    dims = tuple(range(x.dim())) if dim == () else dim
    reach = gates.decide(lambda: x == (function(x, dims, keepdim=True) if dim != () else function(x)))
    return torch.where(reach, x, 0.0).sum(dims, keepdim) / reach.sum(dims, keepdim)


def _sort(gates: Gates, input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False):
    indices = gates.decide(lambda: torch.sort(input, dim=dim, descending=descending, stable=stable)[1])
    return _along(input, indices, dim, True)


def _topk(gates: Gates, input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True):
    indices = gates.decide(lambda: torch.topk(input, k, dim, largest, sorted)[1])
    return _along(input, indices, dim, True)


class _Selected(tuple):
    """(values, indices), with names as torch gives them."""

    values = property(lambda self: self[0])
    indices = property(lambda self: self[1])


def _along(x: Tensor, indices: Tensor, dim: int, keepdim: bool) -> _Selected:
    values = x.gather(dim, indices)
    return _Selected((values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim)))


def _div(gates: Gates, input: Tensor, other, *, rounding_mode: str | None = None, inplace: bool = False) -> Tensor:
    if rounding_mode is None:
        return input.div_(other) if inplace else torch.div(input, other)
    y = gates.decide(lambda: torch.div(input, other, rounding_mode=rounding_mode))
    return _put(input, y, inplace)


def _converted(function: Callable) -> Callable:
    """Conversions to integers are steps."""

    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        y = function(*args, **kwargs)
        return y if y.is_floating_point() else gates.decide(lambda: y)

    return gated


def _euclidean(function: Callable) -> Callable:
    """Norms of order 2. Others have kinks."""

    def gated(gates: Gates, input: Tensor, p="fro", *args, **kwargs) -> Tensor:
        order = kwargs.get("ord", p)
        if order not in ("fro", 2, 2.0, None):
            raise ValueError(f"the kinks of a norm of order {order} are not known; use order 2 or engine='autograd'")
        return function(input, *(() if p == "fro" else (p,)), *args, **kwargs)

    return gated


def _linear_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _relu(gates, F.linear(x, weight, bias), inplace=True)


def _conv2d_relu(gates: Gates, x: Tensor, weight: Tensor, bias: Tensor | None = None, *args, **kwargs) -> Tensor:
    return _relu(gates, F.conv2d(x, weight, bias, *args, **kwargs), inplace=True)


def _with_indices(pool: Callable) -> Callable:
    def gated(gates: Gates, *args, **kwargs):
        return pool(gates, *args[:6], **{**kwargs, "return_indices": True})

    return gated


def _inplace(rule: Callable) -> Callable:
    def gated(gates: Gates, *args, **kwargs) -> Tensor:
        return rule(gates, *args, inplace=True, **kwargs)

    return gated


def _side(x: Tensor, above: Tensor, low: float, high: float) -> Tensor:
    return torch.where(above, torch.full_like(x, high), low)


def _put(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    return x.copy_(y) if inplace else y


_RULES = {
    "relu": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "threshold": _threshold,
    "abs absolute": _abs,
    "clamp clip": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "maximum": _maximum,
    "minimum": _minimum,
    "max": _max,
    "min": _min,
    "amax": _amax,
    "amin": _amin,
    "sort": _sort,
    "topk": _topk,
    "div divide": _div,
    **{name: getattr(pooling, name) for name in pooling.__all__},
    **{f"{name}_with_indices": _with_indices(getattr(pooling, name)) for name in pooling.__all__},
}


def _fill() -> None:
    for names, rule in _RULES.items():
        for name in names.split():
            for form in (name, f"__{name}__"):
                GATED.update(dict.fromkeys(functions_called(form), rule))
            for form in (f"{name}_", f"__i{name}__"):
                GATED.update(dict.fromkeys(functions_called(form), _inplace(rule)))
    for name, rule in (("to", _converted), ("type", _converted)) + tuple(
        (name, _euclidean) for name in ("norm", "vector_norm", "normalize")
    ):
        GATED.update({function: rule(function) for function in functions_called(name)})
    # Eager code announces the functions of this package, compiled code calls their operators.
    GATED.update(dict.fromkeys((linear_relu, ops.native.linear_relu), _linear_relu))
    GATED.update(dict.fromkeys((conv2d_relu, ops.native.conv2d_relu), _conv2d_relu))
    SMOOTH.update((cross_entropy, ops.native.cross_entropy, ops.triton.cross_entropy))


_fill()
