"""Feedback alignment (Lillicrap et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from ..networks.network import LocalModule, Network
from . import Update, no_update, register
from .facts import Facts
from .feedback import Matrices, uniform

INPUT_GRADIENTS = {  # (shape of x, weight, gradient of the output, stride, padding, dilation, groups) -> that of x
    F.linear: lambda shape, weight, gradient: gradient @ weight,
    F.conv1d: torch.nn.grad.conv1d_input,
    F.conv2d: torch.nn.grad.conv2d_input,
    F.conv3d: torch.nn.grad.conv3d_input,
}


@register("fa")
class FA:
    """Feedback alignment: back-propagation through fixed random matrices in the place of the transposed weights."""

    whole = True
    facts = Facts("yes", "no", "no", "1 forward, 1 backward", "as many as in Linear and Conv layers", "all blocks")

    def prepare(self, network: Network, sample: Tensor) -> None:
        for module in network:
            weights = (layer.weight for layer in layers(module))
            module.aux = Matrices(uniform(sample, w.shape, w[0].numel()) for w in weights)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        with RandomFeedback(pair for module in network for pair in zip(layers(module), module.aux, strict=True)):
            for module in network:
                x = module.body(x)
            loss = network[-1].head(x, y)
            torch.autograd.backward(loss)  # and not loss.backward(), for which the mode would be off
        for k in range(len(network)):
            update(k)
        return [loss.detach()]


def layers(module: LocalModule) -> list[nn.Module]:
    """The linear layers of a module and its head."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear | _ConvNd)]


class RandomFeedback(TorchFunctionMode):
    """While it is active, Linear and Conv layers send gradients back through other matrices than their weights.

    Args:
        pairs: layers and what stands in the place of their weights.

    Raises:
        UsageError: a weight is used in a way for which the matrix cannot stand in, instead of what would be its own
            gradient after all.
    """

    def __init__(self, pairs: Iterable[tuple[nn.Module, Tensor]]) -> None:
        super().__init__()
        self.matrices = {id(layer.weight): matrix for layer, matrix in pairs}

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in INPUT_GRADIENTS and not kwargs:
            return self._layer(func, *args)
        if func.__name__ != "__get__" and any(id(value) in self.matrices for value in (*args, *kwargs.values())):
            raise UsageError(f"--method fa knows no {func.__name__}; take a --model of Linear and Conv layers")
        return func(*args, **kwargs)

    def _layer(self, func: Callable, x: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any) -> Tensor:
        matrix = self.matrices.get(id(weight))
        if matrix is None and weight.requires_grad:
            raise UsageError(f"--method fa found a {func.__name__} that is no layer; take nn.Linear or nn.Conv2d")
        if any(isinstance(value, str) for value in geometry):
            raise UsageError(f"--method fa needs padding of {func.__name__} in numbers, got {geometry[1]!r}")
        if matrix is None or not x.requires_grad:
            return func(x, weight, bias, *geometry)
        y = func(x.detach(), weight, bias, *geometry)
        return _SendBack.apply(y, x, matrix, INPUT_GRADIENTS[func], geometry)


class _SendBack(torch.autograd.Function):
    """The output y of a layer of x, whose gradient for x is that of another weight."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, matrix: Tensor, input_gradient: Callable, geometry: tuple) -> Tensor:
        ctx.save_for_backward(matrix)
        ctx.shape, ctx.input_gradient, ctx.geometry = x.shape, input_gradient, geometry
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (matrix,) = ctx.saved_tensors
        return gradient, ctx.input_gradient(ctx.shape, matrix, gradient, *ctx.geometry), None, None, None
