"""linear_relu_sgr and conv2d_relu_sgr against the double backward they replace and the products they cannot avoid."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad

import sgr_kernels as sk

from .. import reference
from . import relu_layers
from .case import Case, Op, Results, Run, Way, nbytes
from .providers import of_backends
from .relu_layers import Layer
from .sgr_loss import eager

MODES = ("none", "exact")  # curvature
CLASSES = 10

# With that of the forward pass: the closed form is not given the output.
EQ_35 = (relu_layers.output, relu_layers.input_grad, relu_layers.weight_grad_of_tangent)
PRODUCTS = {"none": EQ_35, "exact": (*EQ_35, relu_layers.output_tangent, relu_layers.weight_grad)}


@dataclass(frozen=True)
class Head:
    """Cross entropy on an ETF classifier (K, m) behind average pooling over positions."""

    classifier: Tensor
    labels: Tensor

    def double(self) -> Head:
        return Head(self.classifier.double(), self.labels)

    def logits(self, y: Tensor) -> Tensor:
        return F.linear(y if y.dim() == 2 else y.mean((2, 3)), self.classifier)

    def loss(self, y: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(y), self.labels)

    def gradient(self, y: Tensor) -> Tensor:
        y = y.detach().requires_grad_()
        return grad(self.loss(y), y)[0]

    def hvp(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """U -> C, in closed form."""
        p = self.logits(y).softmax(1)
        positions = y[0, 0].numel()

        def hvp(tangent: Tensor) -> Tensor:
            t = self.logits(tangent)
            c = p * (t - (p * t).sum(1, keepdim=True)) @ self.classifier / (len(y) * positions)
            return c if y.dim() == 2 else c[:, :, None, None].expand_as(y)

        return hvp


@dataclass(frozen=True)
class Block:
    """A layer whose cotangent is the gradient of a head, and the gradient its predecessor had for x."""

    layer: Layer
    head: Head
    target: Tensor

    def double(self) -> Block:
        return Block(self.layer.double(), self.head.double(), self.target.double())


def linear(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Block:
    return _block(relu_layers.linear(shape, dtype, device))


def conv2d(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Block:
    return _block(relu_layers.conv2d(shape, dtype, device))


def _block(layer: Layer) -> Block:
    like = {"dtype": layer.x.dtype, "device": layer.device}
    labels = torch.randint(CLASSES, layer.x.shape[:1], device=layer.device)
    head = Head(sk.etf_classifier(CLASSES, len(layer.weight), **like), labels)
    y = layer.kind.plain(*layer.double().arguments)
    cotangent = head.double().gradient(y).to(layer.x.dtype).contiguous()
    target = torch.randn(layer.x.shape, device=layer.device).to(layer.x.dtype)
    return Block(replace(layer, cotangent=cotangent), head, target)


def case(mode: str, block: Block) -> Case:
    layer = block.layer
    exact = functools.cache(lambda: algorithm1(block.double(), reference.sgr_loss))
    truth = exact if mode == "exact" else functools.cache(lambda: eq_35(block.double()))
    ways = {
        **of_backends(layer.device, lambda: closed_form(mode, block), truth),
        layer.kind.library: relu_layers.library(layer, PRODUCTS[mode]),
        # Also beside Eq. 35, which leaves out a part of what it computes to be faster.
        "Algorithm 1": Way(lambda: functools.partial(algorithm1, block, eager), exact),
    }
    if mode == "none":
        ways["reference"] = Way(lambda: functools.partial(eq_35, block), truth)
    read = nbytes(*layer.arguments, layer.cotangent, block.target)
    written = nbytes(*layer.arguments)
    plain = "reference" if mode == "none" else "Algorithm 1"
    return Case(ways, plain, read + written, layer.product_flops * len(PRODUCTS[mode]))


def closed_form(curvature: str, block: Block) -> Run:
    layer = block.layer
    hvp = block.head.hvp(layer.kind.plain(*layer.arguments)) if curvature == "exact" else None
    arguments = (*layer.arguments, layer.cotangent, block.target)
    return lambda: tuple(layer.kind.sgr(*arguments, curvature=curvature, hvp=hvp))


def eq_35(block: Block) -> Results:
    """By a double backward through the layer alone; its upstream gradient is a constant."""
    x, weight, bias = (t.detach().requires_grad_() for t in block.layer.arguments)
    y = block.layer.kind.plain(x, weight, bias)
    (delta,) = grad(y, x, block.layer.cotangent, create_graph=True)
    loss = reference.sgr_loss(delta, block.target)
    return loss, delta, *grad(loss, (weight, bias))


def algorithm1(block: Block, residual: Callable[[Tensor, Tensor], Tensor]) -> Results:
    """By a double backward through the layer and its head."""
    x, weight, bias = (t.detach().requires_grad_() for t in block.layer.arguments)
    y = block.layer.kind.plain(x, weight, bias)
    (delta,) = grad(block.head.loss(y), x, create_graph=True)
    loss = residual(delta.flatten(1), block.target.flatten(1))
    return loss, delta, *grad(loss, (weight, bias))


OPS = {
    "linear_relu_sgr": Op(MODES, linear, case, relu_layers.OPS["linear_relu"].operators),
    "conv2d_relu_sgr": Op(MODES, conv2d, case, relu_layers.OPS["conv2d_relu"].operators),
}
