"""The closed form: chains of linear layers and convolutions with ReLU, without autograd, for a few products.

See :mod:`sgr_kernels.blocks` for the mathematics. The gradient of the loss and the first SGR term share one product,
A^T (X + weight * U).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..blocks import Block, Chain
from ..functional.layers import cast_for_autocast
from ..functional.residual import sgr_direction, sgr_residual
from ..modules import Conv2dReLU, LinearReLU
from ..products import Conv2d, Linear
from . import fused_products
from .common import LocalStep, Settings, add_gradients, in_one_precision, unscale
from .local_loss import Gradients, LocalLoss, local_loss, runs_as_written

Layers = list[tuple[nn.Module, bool]]  # each with whether a ReLU follows
Total = tuple[Tensor | None, Tensor | None]  # gradients of weight and bias


@torch.no_grad()
def local_step(
    body: nn.Module,
    head: nn.Module | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    delta_pre: Tensor | None,
    settings: Settings,
    curvature: str,
) -> LocalStep:
    """See :func:`sgr_kernels.local_step`; arguments are checked there."""
    flatten, layers = closed_form(body)
    if flatten:
        x, delta_pre = x.flatten(1), None if delta_pre is None else delta_pre.flatten(1)
    chain = Chain([_block(layer, relu) for layer, relu in layers])
    [x] = cast_for_autocast(x.detach())
    # Everything in the chain is cast already; the head decides for itself.
    without_autocast = torch.autocast(x.device.type, enabled=False)
    with without_autocast:
        activations = chain.forward(x)
    output = activations[-1]
    exact = delta_pre is not None and curvature == "exact"
    local = local_loss(head, output, y, settings.grad_scale, second_order=exact)
    with without_autocast:
        grad, gradients = local.gradient()
        if delta_pre is None:
            totals = _products(chain, layers, *chain.backward(activations, grad), activations[:-1])
            sgr, of_body = None, _trainable(layers, totals)
        elif not exact and fused_products.available(chain, x, delta_pre, settings):
            sgr, *total = fused_products.reconcile(chain, x, output, grad, delta_pre, settings)
            of_body = _trainable(layers, [total])
        else:
            sgr, of_body = _reconcile(chain, layers, activations, grad, delta_pre, settings, local if exact else None)
    add_gradients(*_one_each(gradients + of_body))
    return LocalStep(local.loss, sgr, output, unscale(grad, settings.grad_scale) if settings.need_delta_out else None)


def _reconcile(
    chain: Chain,
    layers: Layers,
    activations: list[Tensor],
    grad: Tensor,
    target: Tensor,
    settings: Settings,
    local: LocalLoss | None,
) -> tuple[Tensor, Gradients]:
    """SGR loss, and the gradients of the loss and of weight times the SGR loss; without ``local``, Eq. 35."""
    gated, sums = chain.backward(activations, grad)
    x = activations[0]
    may_overflow = x.dtype == torch.float16  # the gradient of a normalised residual does
    delta = unscale(chain.blocks[0].input_grad(gated[0], x), settings.grad_scale)
    if may_overflow:
        chain, activations, gated = chain.float(), [y.float() for y in activations], [a.float() for a in gated]
    if len(chain.blocks) == 1 and local is None and x.dtype == target.dtype and not may_overflow:
        # v itself is not needed
        sgr, direction = sgr_direction(delta, target.detach(), **settings.residual_options(delta))
        return sgr, _trainable(layers, _products(chain, layers, gated, sums, [direction.shift(x, settings.weight)]))
    sgr, v = sgr_residual(*in_one_precision(delta, target), **settings.residual_options(delta))
    # Every tensor is let go as soon as it has served: they are as large as the activations.
    del delta
    changes = chain.tangents(activations, v.to(activations[0].dtype), len(chain.blocks) - (local is None))
    del v
    tangent = None if local is None else changes.pop()
    inputs = [
        torch.add(y, change, alpha=settings.weight, out=change)
        for y, change in zip(activations[:-1], changes, strict=True)
    ]
    totals = _products(chain, layers, gated, sums, inputs)
    if local is None:
        return sgr, _trainable(layers, totals)
    del gated, changes, inputs
    change, of_head = _weighted_hvp(local, tangent, settings.weight, may_overflow)
    del tangent
    totals = _products(chain, layers, *chain.backward(activations, change), activations[:-1], totals)
    return sgr, of_head + _trainable(layers, totals)


def _weighted_hvp(local: LocalLoss, tangent: Tensor, weight: float, may_overflow: bool) -> tuple[Tensor, Gradients]:
    """weight * Hessian * tangent, and the same for the head's parameters."""
    if may_overflow and tangent.numel() > 0:  # the head works in float16: it gets a tangent of size 1
        size = tangent.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        tangent, weight = tangent / size, weight * size
    change, gradients = local.hvp(tangent, weight)
    return change.to(tangent.dtype), gradients


def _products(
    chain: Chain,
    layers: Layers,
    gated: list[Tensor],
    sums: list[Tensor | None],
    inputs: list[Tensor],
    totals: list[Total] | None = None,
) -> list[Total]:
    """Gradients of weight and bias of every block, added to ``totals``."""
    found = []
    before = totals or [(None, None)] * len(layers)
    for block, (layer, _), a, bias, x, (product, total) in zip(
        chain.blocks, layers, gated, sums, inputs, before, strict=True
    ):
        if layer.weight.requires_grad:
            product = block.weight_grad(a, x, product)
        found.append((product, bias if total is None else total + bias))
    return found


def _trainable(layers: Layers, totals: Iterable[Total]) -> Gradients:
    pairs = (
        pair
        for (layer, _), total in zip(layers, totals, strict=True)
        for pair in zip((layer.weight, layer.bias), total, strict=True)
    )
    return [(p, gradient) for p, gradient in pairs if p is not None and p.requires_grad]


def _one_each(gradients: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters, and the sum of the gradients of each in its dtype."""
    sums: dict[Tensor, Tensor] = {}
    for parameter, gradient in gradients:
        sums[parameter] = sums[parameter] + gradient if parameter in sums else gradient
    return list(sums), [gradient.to(parameter.dtype) for parameter, gradient in sums.items()]


def closed_form(body: nn.Module | Callable) -> tuple[bool, Layers]:
    """Whether the body begins with a flattening, and its layers, each with whether a ReLU follows.

    Raises:
        ValueError: names the first layer that has no closed form.
    """
    flatten = False
    layers: Layers = []
    for name, module in _leaves(body, ""):
        kind = type(module)
        if kind is nn.Flatten and not layers and (module.start_dim, module.end_dim) == (1, -1):
            flatten = True
        elif kind is nn.ReLU and layers and not layers[-1][1]:
            layers[-1] = layers[-1][0], True
        elif kind in (LinearReLU, Conv2dReLU):
            layers.append((module, True))
        elif kind is nn.Linear or (kind is nn.Conv2d and _is_zero_padded(module)):
            layers.append((module, False))
        elif kind is not nn.Identity:
            raise _refusal(f"{name or 'body'} ({module})")
    if not layers:
        raise _refusal("a body without layers")
    return flatten, layers


def _is_zero_padded(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _refusal(what: str) -> ValueError:
    return ValueError(
        f"engine='fused' has a closed form for chains of Linear, Conv2d (zero padding) and ReLU only, not for {what}; "
        "use engine='directional'"
    )


def _leaves(module: nn.Module | Callable, name: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Module):
        raise _refusal(f"a body that is no nn.Module ({module!r})")
    if not runs_as_written(module):
        raise _refusal(f"{name or 'body'} ({module}) with hooks or a forward of its own")
    if type(module).forward is nn.Sequential.forward:
        for child_name, child in _children(module):
            yield from _leaves(child, f"{name}.{child_name}" if name else child_name)
    else:
        yield name, module


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As ``named_children``, which leaves out a second use of a module."""
    named = module.named_modules(remove_duplicate=False)
    return ((name, child) for name, child in named if name and "." not in name)


def _block(layer: nn.Module, relu: bool) -> Block:
    weight, bias = cast_for_autocast(layer.weight, layer.bias)
    if isinstance(layer, nn.Linear):
        return Block(Linear(), weight, bias, relu)
    return Block(Conv2d(layer.stride, layer.padding, layer.dilation, layer.groups), weight, bias, relu)
