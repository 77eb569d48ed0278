"""linear_relu and conv2d_relu: their passes against plain torch and against the bare products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import sgr_kernels as sk
from sgr_kernels.affine import AffineMap, Conv2d, Linear
from sgr_kernels.operators.conv2d_relu import conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward
from sgr_kernels.operators.linear_relu import linear_relu, linear_relu_backward, linear_relu_double_backward

from .case import Case, Op, Results, Run, Way, nbytes
from .derivatives import MODES, Point, run_of
from .providers import compiled, of_backends

PADDING = 1  # the convolutions are 3 x 3


@dataclass(frozen=True)
class Kind:
    """Linear or convolutional.

    Attributes:
        ours, sgr: the layer of sgr_kernels, and its closed form.
        plain: the layer in plain torch.
        affine: its affine map, by the library torch uses; ``library`` is the name of that provider.
    """

    ours: Callable[..., Tensor]
    sgr: Callable[..., tuple]
    plain: Callable[..., Tensor]
    affine: AffineMap
    library: str


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias).relu()


def plain_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=PADDING).relu()


def our_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return sk.conv2d_relu(x, weight, bias, padding=PADDING)


def our_conv2d_sgr(*args, **options) -> tuple:
    return sk.conv2d_relu_sgr(*args, padding=PADDING, **options)


LINEAR = Kind(sk.linear_relu, sk.linear_relu_sgr, plain_linear, Linear(), "library GEMM")
CONV2D = Kind(our_conv2d, our_conv2d_sgr, plain_conv2d, Conv2d(padding=(PADDING, PADDING)), "library conv")


@dataclass(frozen=True)
class Layer:
    """y = relu(W x + b), a cotangent of y, and a tangent of x."""

    kind: Kind
    x: Tensor
    weight: Tensor
    bias: Tensor
    cotangent: Tensor
    tangent: Tensor

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.weight, self.bias

    @property
    def device(self) -> str:
        return self.x.device.type

    def double(self) -> Layer:
        tensors = (*self.arguments, self.cotangent, self.tangent)
        return Layer(self.kind, *(t.double() for t in tensors))

    @property
    def product_flops(self) -> int:
        """Of each of the products of a pass: 2 B m n, and the same for every position of a convolution."""
        return 2 * self.weight.numel() * self.cotangent[:, 0].numel()


def linear(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Layer:
    """Shape (B, n, m)."""
    batch, inputs, outputs = shape
    return _layer(LINEAR, (batch, inputs), (outputs, inputs), (batch, outputs), dtype, device)


def conv2d(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Layer:
    """Shape (B, C, H, W); C channels come out as well."""
    channels = shape[1]
    return _layer(CONV2D, shape, (channels, channels, 3, 3), shape, dtype, device)


def _layer(kind: Kind, x: tuple, weight: tuple, y: tuple, dtype: torch.dtype, device: str) -> Layer:
    """Inputs for which no rounding opens or closes a gate, as one wrong gate would be an error of the whole result.

    x and W are multiples of 1/8, up to a power of two, and so their products are exact in every dtype; the bias is an
    odd multiple of half their unit, and so no sum is near 0.
    """
    scale = 2.0 ** -round(math.log2(math.prod(weight[1:])) / 2)  # y is of order 1
    tensors = (
        _eighths(x, device),
        scale * _eighths(weight, device),
        scale * (2 * torch.randint(-32, 32, weight[:1], device=device) + 1) / 128,
        torch.randn(y, device=device),
        torch.randn(x, device=device),
    )
    return Layer(kind, *(t.to(dtype) for t in tensors))


def _eighths(shape: tuple[int, ...], device: str) -> Tensor:
    return (8 * torch.randn(shape, device=device)).round() / 8


def case(mode: str, layer: Layer) -> Case:
    point = Point(layer.arguments, (), layer.cotangent, layer.tangent)

    def make(function: Callable[..., Tensor]) -> Run:
        return run_of(mode, function, point)

    truth = functools.cache(lambda: run_of(mode, layer.kind.plain, point.double())())
    ways = {
        "reference": Way(lambda: make(layer.kind.plain), truth),
        **of_backends(layer.device, lambda: make(layer.kind.ours), truth),
        layer.kind.library: library(layer, PRODUCTS[mode]),
    }
    if mode != "double backward":
        ways["torch.compile"] = Way(lambda: make(compiled(layer.kind.plain)), truth)
    return Case(ways, "reference", _traffic(mode, layer), layer.product_flops * len(PRODUCTS[mode]))


# What every implementation has to multiply. The gates are taken to be applied already: the bare products have none.
Bare = Callable[[Layer], Tensor]


def output(layer: Layer) -> Tensor:
    return layer.kind.affine.forward(layer.x, layer.weight)


def input_grad(layer: Layer) -> Tensor:
    return layer.kind.affine.input_grad(layer.cotangent, layer.weight, layer.x)


def weight_grad(layer: Layer) -> Tensor:
    return layer.kind.affine.weight_grad(layer.cotangent, layer.weight, layer.x)


def output_tangent(layer: Layer) -> Tensor:
    return layer.kind.affine.forward(layer.tangent, layer.weight)


def weight_grad_of_tangent(layer: Layer) -> Tensor:
    return layer.kind.affine.weight_grad(layer.cotangent, layer.weight, layer.tangent)


PRODUCTS: dict[str, tuple[Bare, ...]] = {
    "forward": (output,),
    "backward": (input_grad, weight_grad),
    "double backward": (output_tangent, weight_grad_of_tangent),
    "full": (output, input_grad, weight_grad),
}


def library(layer: Layer, products: tuple[Bare, ...]) -> Way:
    """The bare products and nothing else. They have a truth of their own."""

    def run(layer: Layer) -> Results:
        return tuple(product(layer) for product in products)

    return Way(lambda: functools.partial(run, layer), lambda: run(layer.double()))


def _traffic(mode: str, layer: Layer) -> int:
    x, weight, bias, y = layer.x, layer.weight, layer.bias, layer.cotangent
    forward = nbytes(x, weight, bias, y)
    backward = nbytes(y, y, x, weight) + nbytes(x, weight, bias)  # dL/dy and the gates; the gradients
    twice = nbytes(x, y, y, weight) + nbytes(y, weight)  # the tangent, dL/dy and the gates; for dL/dy and the weight
    return {"forward": forward, "backward": backward, "double backward": twice, "full": forward + backward}[mode]


OPS = {
    "linear_relu": Op(MODES, linear, case, (linear_relu, linear_relu_backward, linear_relu_double_backward)),
    "conv2d_relu": Op(MODES, conv2d, case, (conv2d_relu, conv2d_relu_backward, conv2d_relu_double_backward)),
}
