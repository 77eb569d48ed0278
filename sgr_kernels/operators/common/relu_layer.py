"""relu(W x + b), its backward and its double backward for any affine map W: linear layers and convolutions.

The gates are all that is kept of the nonlinearity: y > 0 says what z > 0 said, so x, W and y are saved. The double
backward treats them as constants, as Algorithm 1 does, and cannot be differentiated again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...affine import AffineMap
from ...torch_internals import is_wanted
from ..relu_backward import through_relu
from .operator import Derivative, Operator


def forward(affine: AffineMap, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return affine.forward(x, weight, bias).relu_()


def backward(
    affine: AffineMap, grad: Tensor, output: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor in the place of one that is not wanted."""
    need_x, need_weight, need_bias = wanted
    a, sums = through_relu(grad, output, affine.features_last, need_bias)
    return (
        affine.input_grad(a, weight, x) if need_x else grad.new_empty(0),
        affine.weight_grad(a, weight, x) if need_weight else grad.new_empty(0),
        sums.to(grad.dtype) if need_bias else grad.new_empty(0),
    )


def double_backward(
    affine: AffineMap,
    v_x: Tensor | None,
    v_weight: Tensor | None,
    v_bias: Tensor | None,
    grad: Tensor,
    output: Tensor,
    x: Tensor,
    weight: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of <v_x, dL/dx> + <v_weight, dL/dW> + <v_bias, dL/db> for grad, x and weight (Eq. 35 with v_x = V)."""
    need_grad, need_x, need_weight = wanted
    a = through_relu(grad, output, affine.features_last)[0] if need_x or need_weight else None
    return (
        _tangent(affine, v_x, v_weight, v_bias, output, x, weight) if need_grad else grad.new_empty(0),
        affine.input_grad(a, v_weight, x) if need_x and v_weight is not None else torch.zeros_like(x),
        affine.weight_grad(a, weight, v_x) if need_weight and v_x is not None else torch.zeros_like(weight),
    )


def _tangent(affine: AffineMap, v_x, v_weight, v_bias, output: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Change of the output along (v_x, v_weight, v_bias) with frozen gates."""
    z = torch.zeros_like(output)
    if v_x is not None:
        z = affine.forward(v_x, weight, v_bias)
    elif v_bias is not None:
        z = z + (v_bias if affine.features_last else v_bias[:, None, None])
    if v_weight is not None:
        z = z + affine.forward(x, v_weight)
    return through_relu(z, output, affine.features_last)[0]


def layer_operators(
    name: str, affine: Callable[..., AffineMap], geometry: str = ""
) -> tuple[Operator, Operator, Operator]:
    """The operators ``name``, ``name``_backward and ``name``_double_backward.

    Args:
        affine: from the geometry of a call to the affine map.
        geometry: schema of the geometry, which comes last in every call.
    """
    count = geometry.count(",")

    def with_affine(function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            split = len(args) - count
            return function(affine(*args[split:]), *args[:split])

        return call

    # The implementations are made of other operators, so they also are their own fakes.
    forward_, backward_, double_backward_ = map(with_affine, (forward, backward, double_backward))
    double_operator = Operator(
        f"{name}_double_backward(Tensor? v_x, Tensor? v_weight, Tensor? v_bias, Tensor grad, Tensor output, Tensor x,"
        f" Tensor weight, bool[] wanted{geometry}) -> (Tensor, Tensor, Tensor)",
        fake=double_backward_,
        composed=double_backward_,
    )
    backward_operator = Operator(
        f"{name}_backward(Tensor grad, Tensor output, Tensor x, Tensor weight, bool[] wanted{geometry})"
        " -> (Tensor, Tensor, Tensor)",
        fake=backward_,
        composed=backward_,
        derivative=_second_derivative(double_operator),
    )
    layer = Operator(
        f"{name}(Tensor x, Tensor weight, Tensor? bias{geometry}) -> Tensor",
        fake=forward_,
        composed=forward_,
        derivative=_derivative(backward_operator),
    )
    return layer, backward_operator, double_operator


def _derivative(backward_operator: Operator) -> Derivative:
    """Of the layer (x, weight, bias, *geometry)."""

    def save(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, bias, *ctx.geometry = inputs
        ctx.save_for_backward(x, weight, output)

    def derivative(ctx: Any, alike, grad: Tensor) -> tuple:
        x, weight, output = ctx.saved_tensors
        # Algorithm 1 first asks for the gradient of x alone; needs_input_grad says which arguments require one at all.
        wanted = [is_wanted(ctx, i) for i in range(3)]
        grads = alike(backward_operator)(grad, output, x, weight, wanted, *ctx.geometry)
        return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None for _ in ctx.geometry)

    return Derivative(save, derivative, (backward_operator,))


def _second_derivative(double_backward_operator: Operator) -> Derivative:
    """Of its backward (grad, output, x, weight, wanted, *geometry)."""

    def save(ctx: Any, inputs: tuple, output: tuple) -> None:
        grad, result, x, weight, _, *ctx.geometry = inputs
        ctx.save_for_backward(grad, result, x, weight)
        ctx.set_materialize_grads(False)

    def derivative(ctx: Any, alike, *v: Tensor | None) -> tuple:
        wanted = [is_wanted(ctx, i) for i in (0, 2, 3)]
        grads = alike(double_backward_operator)(*v, *ctx.saved_tensors, wanted, *ctx.geometry)
        for_grad, for_x, for_weight = (g if want else None for g, want in zip(grads, wanted, strict=True))
        return for_grad, None, for_x, for_weight, None, *(None for _ in ctx.geometry)

    return Derivative(save, derivative, (double_backward_operator,))
