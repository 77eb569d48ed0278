"""linear_relu_step: the local step of one linear ReLU block, in three products (Eq. 35) or five (exact).

The fused engine against Algorithm 1 as published. It is all of the gradient, that of the loss as well as that of SGR:
the two share a product.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad

import sgr_kernels as sk

from .. import reference
from . import relu_layers, relu_sgr
from .case import Case, Op, Results, Run, Way, nbytes
from .providers import of_backends
from .relu_sgr import MODES, PRODUCTS, Block

WEIGHT = 0.3  # lambda under "batchmean"; Algorithm 1 averages over the elements of a sample as well


class Module(NamedTuple):
    body: nn.Sequential
    head: sk.CrossEntropyHead
    x: Tensor
    labels: Tensor
    delta_pre: Tensor
    weight: float

    def gradients(self) -> Results:
        return tuple(parameter.grad for parameter in self.body.parameters())


def module_of(block: Block) -> Module:
    layer, classifier = block.layer, block.head.classifier
    like = {"dtype": layer.x.dtype, "device": layer.device}
    (outputs, inputs), classes = layer.weight.shape, len(classifier)
    linear, head = nn.Linear(inputs, outputs).to(**like), sk.ETFClassifier(classes, outputs, **like)
    with torch.no_grad():
        for own, given in ((linear.weight, layer.weight), (linear.bias, layer.bias), (head.weight, classifier)):
            own.copy_(given)
    body = nn.Sequential(linear, nn.ReLU())
    return Module(body, sk.CrossEntropyHead(head), layer.x, block.head.labels, block.target, WEIGHT * inputs)


def fused(curvature: str, block: Block) -> Run:
    module = module_of(block)
    options = {"weight": module.weight, "engine": "fused", "curvature": curvature, "need_delta_out": False}

    def run() -> Results:
        module.body.zero_grad()
        step = sk.local_step(module.body, module.head, module.x, module.labels, module.delta_pre, **options)
        return step.loss, step.sgr, *module.gradients()

    return run


def algorithm1(block: Block) -> Run:
    module = module_of(block)

    def run() -> Results:
        module.body.zero_grad()
        loss, sgr, _, _ = reference.algorithm1_step(*module[:-1], weight=module.weight)
        return loss, sgr, *module.gradients()

    return run


def eq_35(block: Block) -> Results:
    """Algorithm 1 with an upstream gradient that is a constant."""
    x, weight, bias = (t.detach().requires_grad_() for t in block.layer.arguments)
    y = block.layer.kind.plain(x, weight, bias)
    loss = block.head.loss(y)
    (upstream,) = grad(loss, y, retain_graph=True)
    (delta,) = grad(y, x, upstream, create_graph=True)
    sgr = reference.sgr_loss(delta, block.target)
    return loss, sgr, *grad(loss + WEIGHT * x.shape[1] * sgr, (weight, bias))


def case(mode: str, block: Block) -> Case:
    layer = block.layer
    exact = functools.cache(lambda: algorithm1(block.double())())
    truth = exact if mode == "exact" else functools.cache(lambda: eq_35(block.double()))
    ways = {
        **of_backends(layer.device, lambda: fused(mode, block), truth),
        layer.kind.library: relu_layers.library(layer, PRODUCTS[mode]),
        "Algorithm 1": Way(lambda: algorithm1(block), exact),
    }
    if mode == "none":
        ways["reference"] = Way(lambda: functools.partial(eq_35, block), truth)
    read, written = nbytes(*layer.arguments, block.target), nbytes(layer.weight, layer.bias)
    plain = "reference" if mode == "none" else "Algorithm 1"
    return Case(ways, plain, read + written, layer.product_flops * len(PRODUCTS[mode]))


OPS = {"linear_relu_step": Op(MODES, relu_sgr.linear, case, relu_layers.OPS["linear_relu"].operators)}
