"""A local step in closed form, for a chain of linear layers and convolutions with ReLU. No graph of the body is built.

:mod:`sgr_kernels.blocks` has the gradients of the chain, :mod:`.local_loss` those of the loss at its end.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..affine import AffineMap, Conv2d, Linear
from ..blocks import Block, Chain
from ..functional.direction import sgr_direction, sgr_gradient
from ..functional.relu_layers import cast_for_autocast, without_autocast
from ..modules import Conv2dReLU, LinearReLU
from ..relative_weight import RelativeWeight
from .common import LocalStep, StepInputs, StepOptions, add_gradients, in_wider_dtype, refuse_gradient_hooks, unscale
from .local_loss import Gradients, LocalLoss, local_loss, runs_as_written


@torch.no_grad()
def run(inputs: StepInputs, options: StepOptions) -> LocalStep:
    """The step of :func:`sgr_kernels.local_step`."""
    body, head, x, y, target = inputs
    flatten, chain = chain_of(body)
    if flatten:
        x, target = x.flatten(1), None if target is None else target.flatten(1)
    [x] = cast_for_autocast(x.detach())
    output = chain.forward(x)
    exact = target is not None and options.curvature == "exact"
    local = local_loss(head, output, y, options.grad_scale, second_order=exact)
    with without_autocast(x.device.type):  # the operands are cast already
        grad, gradients = local.gradient()
        if target is None:
            sgr = None
            chain.add_gradients(grad)
        else:
            sgr, others = _reconcile(chain, grad, target, options, local if exact else None, gradients)
            gradients += others
    gradients += chain.take_gradients()
    local.check()
    refuse_gradient_hooks((parameter for parameter, _ in gradients), "fused")
    delta_out = unscale(grad, options.grad_scale) if options.need_delta_out else None
    add_gradients(*_one_each(gradients))
    return LocalStep(local.loss, sgr, output, delta_out)


def _reconcile(
    chain: Chain,
    grad: Tensor,
    target: Tensor,
    options: StepOptions,
    local: LocalLoss | None,
    head_gradients: Gradients,
) -> tuple[Tensor, Gradients]:
    """The SGR loss, and the gradients of sgr_weight times it that the chain does not keep with those of L: the head's.

    With a relative weight, the chain keeps none, and the gradients of L for the chain are among the result.

    Args:
        grad: dL/dy, shape of the output of the chain.
        target: shape of the input of the chain.
        local: L; None: Eq. 35, which needs no second derivative of L.
        head_gradients: of L, for the parameters of the head.
    """
    x = chain.blocks[0].x
    may_overflow = x.dtype == torch.float16  # v is proportional to 1 / |delta|
    delta = unscale(chain.backward(grad), options.grad_scale)
    comparison = options.comparison(delta)
    weight = options.sgr_weight
    relative = isinstance(weight, RelativeWeight)
    if not relative and len(chain.blocks) == 1 and local is None and x.dtype == target.dtype and not may_overflow:
        # Only x + sgr_weight v is needed, which a kernel computes without v in memory.
        sgr, direction = sgr_direction(delta, target, comparison)
        chain.blocks[0].add_product(direction.shift(x, weight))
        return sgr, []
    sgr, v = sgr_gradient(*in_wider_dtype(delta, target), comparison, None if relative else weight)
    del delta
    of_loss: Gradients = []
    if relative:
        chain.add_products()
        of_loss = chain.take_gradients()
    tangent = chain.add_along(v, to_output=local is not None, with_products=not relative)
    del v
    of_head: Gradients = []
    if local is not None:
        rescale = may_overflow and tangent.numel() > 0
        hvp, of_head = _hvp_in_float16(local, tangent) if rescale else local.hvp(tangent)
        del tangent
        chain.add_gradients(hvp)
    if not relative:
        return sgr, of_head
    body = {parameter for parameter, _ in of_loss}
    return sgr, of_loss + _weighted(weight, body, of_loss + head_gradients, chain.take_gradients() + of_head)


def _weighted(weight: RelativeWeight, body: set[Tensor], of_loss: Gradients, of_sgr: Gradients) -> Gradients:
    """``of_sgr`` times the weight that these gradients of the whole module give.

    Args:
        body: the parameters that count; the head may share some.
    """
    of_body = ([g for p, g in _sums(each).items() if p in body] for each in (of_loss, of_sgr))
    factor = weight.update(*of_body)
    return [(parameter, factor * gradient) for parameter, gradient in of_sgr]


def _hvp_in_float16(local: LocalLoss, tangent: Tensor) -> tuple[Tensor, Gradients]:
    """:meth:`LocalLoss.hvp` for a tangent beyond the range of float16, in which the head works: it gets one of size 1,
    and the result, which is linear in it, is multiplied in float32.
    """
    size = tangent.abs().amax().clamp_min(torch.finfo(tangent.dtype).tiny)
    hvp, of_head = local.hvp(tangent / size)
    return size * hvp.float(), [(parameter, size * gradient) for parameter, gradient in of_head]


def _one_each(gradients: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters, each once, and for each the sum of its gradients, in its dtype."""
    sums = _sums(gradients)
    return list(sums), [gradient.to(parameter.dtype) for parameter, gradient in sums.items()]


def _sums(gradients: Gradients) -> dict[Tensor, Tensor]:
    sums: dict[Tensor, Tensor] = {}
    for parameter, gradient in gradients:
        sums[parameter] = sums[parameter] + gradient if parameter in sums else gradient
    return sums


def chain_of(body: nn.Module | Callable) -> tuple[bool, Chain]:
    """Whether the body begins with a flattening, and its layers as a chain.

    Raises:
        ValueError: names the first layer that has no closed form.
    """
    flatten = False
    blocks: list[Block] = []
    for name, module in _layers(body, "body"):
        kind = type(module)
        if kind is nn.Flatten and not blocks and (module.start_dim, module.end_dim) == (1, -1):
            flatten = True
        elif kind is nn.ReLU and blocks and not blocks[-1].relu:
            blocks[-1].relu = True
        elif kind in (nn.Linear, LinearReLU):
            blocks.append(_block(Linear(), module, relu=kind is LinearReLU))
        elif kind is Conv2dReLU or (kind is nn.Conv2d and _is_zero_padded(module)):
            affine = Conv2d(module.stride, module.padding, module.dilation, module.groups)
            blocks.append(_block(affine, module, relu=kind is Conv2dReLU))
        elif kind is not nn.Identity:
            raise _refusal(f"{name} ({module})")
    if not blocks:
        raise _refusal("a body without layers")
    return flatten, Chain(blocks)


def _block(affine: AffineMap, layer: nn.Linear | nn.Conv2d, relu: bool) -> Block:
    wants_bias = layer.bias is not None and layer.bias.requires_grad
    return Block(affine, layer.weight, layer.bias, relu, layer.weight.requires_grad, wants_bias)


def _is_zero_padded(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _refusal(what: str) -> ValueError:
    return ValueError(
        f"engine='fused' has a closed form for chains of Linear, Conv2d (zero padding) and ReLU only, not for {what}; "
        "use engine='directional'"
    )


def _layers(module: nn.Module | Callable, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers in the order they run in, each with its name: body.0.1 is the second layer of the first child."""
    if not isinstance(module, nn.Module):
        raise _refusal(f"a body that is no nn.Module ({module!r})")
    if not runs_as_written(module):
        raise _refusal(f"{name} ({module}) with hooks, a forward of its own or computed weights")
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for index, child in enumerate(module):
            yield from _layers(child, f"{name}.{index}")
    else:
        yield name, module
