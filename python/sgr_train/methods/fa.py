"""Feedback alignment (Lillicrap et al. 2016)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.conv import _ConvNd

from ..errors import UsageError
from ..networks.network import Network
from ..networks.statistics import frozen_statistics
from . import Update, no_update, register
from .facts import Facts
from .feedback import Matrices, uniform

INPUT_GRADIENTS = {
    nn.Conv1d: torch.nn.grad.conv1d_input,
    nn.Conv2d: torch.nn.grad.conv2d_input,
    nn.Conv3d: torch.nn.grad.conv3d_input,
}


@register("fa")
class FA:
    """Feedback alignment: back-propagation through fixed random matrices in the place of the transposed weights."""

    whole = True
    grad_scale = 1.0
    facts = Facts("yes", "no", "no", "1 forward, 1 backward", "a matrix for every weight", "all blocks")

    def why_not_compiled(self, network: Network) -> str:
        return "--method fa sends gradients back through other matrices than those that blocks are compiled with"

    def prepare(self, network: Network, sample: Tensor) -> None:
        check(network, sample)
        for module in network:
            weights = (layer.weight for layer in linear_layers(module))
            module.aux = Matrices(uniform(sample, weight.shape, weight[0].numel()) for weight in weights)

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        pairs = (pair for module in network for pair in zip(linear_layers(module), module.aux, strict=True))
        with random_feedback(pairs):
            for module in network:
                x = module.body(x)
            loss = network[-1].head(x, y)
            (self.grad_scale * loss).backward()  # in here too: checkpointed blocks run again
        for k in range(len(network)):
            update(k)
        return [loss.detach()]


def linear_layers(module: nn.Module) -> list[nn.Module]:
    """The Linear and Conv layers whose weights learn."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear | _ConvNd))
    return [layer for layer in layers if layer.weight.requires_grad]


@torch.no_grad()
def check(network: Network, sample: Tensor) -> None:
    """Raises UsageError where a weight would send back its own gradient: not by a layer that is known here."""
    used = set()
    parts = [*(module.body for module in network), network[-1].head]
    layers = [layer for part in parts for layer in linear_layers(part)]
    handles = [layer.register_forward_pre_hook(lambda layer, _: used.add(layer)) for layer in layers]
    with frozen_statistics(network):
        for module in network:
            sample = module.body(sample)
        network[-1].head.logits(sample)
    for handle in handles:
        handle.remove()
    for layer in layers:
        kind = type(layer)
        if kind is not nn.Linear and kind not in INPUT_GRADIENTS:
            raise UsageError(f"--method fa knows no {kind.__name__}; take nn.Linear or nn.Conv2d, with ReLU by itself")
        if layer not in used:
            raise UsageError(f"--method fa needs every {kind.__name__} to be called, not its weight; take --model vgg")
        if kind is not nn.Linear and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            given = f"padding={layer.padding!r} and padding_mode={layer.padding_mode!r}"
            raise UsageError(f"--method fa needs {kind.__name__} with a number of zeros as padding, got {given}")


@contextlib.contextmanager
def random_feedback(pairs: Iterable[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    """In here layers send gradients back through the matrices that come with them."""
    layers = []
    for layer, matrix in pairs:
        layer.forward = partial(_forward, layer, matrix)
        layers.append(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # what its class has


def _forward(layer: nn.Module, matrix: Tensor, x: Tensor) -> Tensor:
    return _SendBack.apply(type(layer).forward(layer, x.detach()), x, layer, matrix)


class _SendBack(torch.autograd.Function):
    """What a layer gives for x without its graph; the gradient for x is that of the matrix as its weight."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, layer: nn.Module, matrix: Tensor) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        ctx.save_for_backward(matrix)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        (matrix,), layer = ctx.saved_tensors, ctx.layer
        matrix = matrix.to(gradient.dtype)  # as autocast has rounded the weight
        if isinstance(layer, nn.Linear):
            return gradient, gradient @ matrix, None, None
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return gradient, INPUT_GRADIENTS[type(layer)](ctx.shape, matrix, gradient, *geometry), None, None
