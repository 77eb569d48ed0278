"""relu(W x + b) for linear layers and convolutions, its backward and its double backward, each an operator.

The gates are all that is kept of the nonlinearity: y > 0 says what z > 0 said, so x, W and y are saved. The double
backward treats them as constants, as Algorithm 1 does, and cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..products import Conv2d, Linear, Product
from ..torch_internals import will_be_executed
from .gate import relu_backward
from .registry import register


def _forward(product: Product, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return product.forward(x, weight, bias).relu_()


def _backward(
    product: Product, grad: Tensor, output: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor in the place of one that is not wanted."""
    need_x, need_weight, need_bias = wanted
    a, sums = relu_backward(grad, output, product.features_last, need_bias)
    return (
        product.input_grad(a, weight, x) if need_x else grad.new_empty(0),
        product.weight_grad(a, weight, x) if need_weight else grad.new_empty(0),
        sums.to(grad.dtype) if need_bias else grad.new_empty(0),
    )


def _double_backward(
    product: Product,
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
    a = relu_backward(grad, output, product.features_last, False)[0] if need_x or need_weight else None
    return (
        _tangent(product, v_x, v_weight, v_bias, output, x, weight) if need_grad else grad.new_empty(0),
        product.input_grad(a, v_weight, x) if need_x and v_weight is not None else torch.zeros_like(x),
        product.weight_grad(a, weight, v_x) if need_weight and v_x is not None else torch.zeros_like(weight),
    )


def _tangent(product: Product, v_x, v_weight, v_bias, output: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Change of the output along (v_x, v_weight, v_bias) with frozen gates."""
    z = torch.zeros_like(output)
    if v_x is not None:
        z = product.forward(v_x, weight, v_bias)
    elif v_bias is not None:
        z = z + (v_bias if product.features_last else v_bias[:, None, None])
    if v_weight is not None:
        z = z + product.forward(x, v_weight)
    return relu_backward(z, output, product.features_last, False)[0]


def _executed(ctx, index: int) -> bool:
    """Whether this backward pass wants the gradient of a tensor argument.

    Algorithm 1 first asks for that of x alone; torch tells a Python function only which arguments require one at all.
    """
    return ctx.needs_input_grad[index] and will_be_executed(ctx.next_functions[index][0])


def _formula(name: str) -> Callable:
    def formula(operators):
        def save(ctx, inputs, output):
            x, weight, bias, *ctx.geometry = inputs
            ctx.save_for_backward(x, weight, output)

        def backward(ctx, grad):
            x, weight, output = ctx.saved_tensors
            wanted = [_executed(ctx, i) for i in range(3)]
            differentiate = getattr(operators, f"differentiable_{name}_backward")
            grads = differentiate(grad, output, x, weight, wanted, *ctx.geometry)
            return *(g if want else None for g, want in zip(grads, wanted, strict=True)), *(None for _ in ctx.geometry)

        return save, backward

    return formula


def _backward_formula(name: str) -> Callable:
    def formula(operators):
        def save(ctx, inputs, output):
            grad, result, x, weight, _, *ctx.geometry = inputs
            ctx.save_for_backward(grad, result, x, weight)
            ctx.set_materialize_grads(False)

        def backward(ctx, *v):
            need_grad, _, need_x, need_weight = ctx.needs_input_grad[:4]
            wanted = [need_grad, need_x, need_weight]
            grads = getattr(operators, f"{name}_double_backward")(*v, *ctx.saved_tensors, wanted, *ctx.geometry)
            for_grad, for_x, for_weight = (g if want else None for g, want in zip(grads, wanted, strict=True))
            return for_grad, None, for_x, for_weight, None, *(None for _ in ctx.geometry)

        return save, backward

    return formula


def _register_layer(name: str, product: Callable[..., Product], geometry: str, count: int) -> None:
    """``geometry`` is the schema of the arguments of ``product``, ``count`` their number."""

    def with_product(function: Callable) -> Callable:
        def call(*args):
            split = len(args) - count
            return function(product(*args[split:]), *args[:split])

        return call

    # The implementations are made of other operators, so they also are their own fakes.
    forward, backward, double_backward = map(with_product, (_forward, _backward, _double_backward))
    register(
        f"{name}_double_backward",
        "(Tensor? v_x, Tensor? v_weight, Tensor? v_bias, Tensor grad, Tensor output, Tensor x, Tensor weight,"
        f" bool[] wanted{geometry}) -> (Tensor, Tensor, Tensor)",
        double_backward,
        python=double_backward,
    )
    register(
        f"{name}_backward",
        f"(Tensor grad, Tensor output, Tensor x, Tensor weight, bool[] wanted{geometry}) -> (Tensor, Tensor, Tensor)",
        backward,
        python=backward,
        formula=_backward_formula(name),
    )
    register(
        name,
        f"(Tensor x, Tensor weight, Tensor? bias{geometry}) -> Tensor",
        forward,
        python=forward,
        formula=_formula(name),
    )


_register_layer("linear_relu", Linear, "", 0)
_register_layer("conv2d_relu", Conv2d, ", int[] stride, int[] padding, int[] dilation, int groups", 4)
