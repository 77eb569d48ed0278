"""PEPITA: error-driven input modulation (Dellaferrera & Kreiman 2022), by the equations of the paper.

Its published code turns the sign of the update of convolutions, divides it twice by the batch, and takes the error of
the second pass in the last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sgr_kernels as sk
from sgr_kernels.modules import average_positions

from ..errors import UsageError
from ..networks.network import Checkpointed, Network
from ..options import Positive
from . import Update, no_update, register
from .facts import Facts
from .feedback import Matrices, backward, targets, uniform

Layer = Callable[[Tensor], Tensor]
WEIGHTED = (nn.Linear, nn.Conv2d, sk.ETFClassifier)
BETWEEN = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity)
CURE = "take --model pepita_conv, mlp or plainnet with --norm none, and --head linear or etf"


@register("pepita")
class Pepita:
    """PEPITA: a second forward pass on the input plus its error; differences of the two are the updates.

    With e = p - y, for softmax outputs p and one-hot labels y, the second pass is on x + F e, for a fixed random F.
    Layer l with input h_{l-1} and output h_l after its ReLU gets (h_l - h_l^err) (h_{l-1}^err)^T as its gradient, the
    last layer e (h^err)^T, averaged over samples and, of a convolution, over positions. It is for networks of few
    layers.

    Args:
        projection: F is uniform, between -1 and 1 times sqrt(6 / values of the input), times this.
    """

    whole = True
    grad_scale = 1.0
    facts = Facts("yes", "partly", "yes", "2 forward", "one matrix input x classes", "outputs of all layers")

    def __init__(self, *, projection: Positive = 0.05) -> None:
        self.projection = projection

    def why_not_compiled(self, network: Network) -> str:
        return "--method pepita calls the layers inside of blocks one by one, and no compiled block"

    def prepare(self, network: Network, sample: Tensor) -> None:
        check(network)
        matrix = uniform(sample, (network.num_classes, *sample.shape[1:]), sample[0].numel())
        network[0].aux = Matrices([self.projection * matrix])

    def step(self, network: Network, x: Tensor, y: Tensor, update: Update = no_update) -> list[Tensor]:
        [matrix] = network[0].aux
        with torch.no_grad():
            first = forward(network, x)
        logits = first[-1].output
        target = targets(network, y, logits.dtype)
        error = logits.softmax(1) - target

        second = forward(network, x + (error @ matrix.flatten(1)).reshape(x.shape))
        for before, after in zip(first[:-1], second[:-1], strict=True):
            difference = before.output - after.output
            count = difference[:, 0].numel()  # samples times positions
            backward(after.linear, difference * (self.grad_scale / count))
        backward(second[-1].linear, error * (self.grad_scale / len(error)))
        for k in range(len(network)):
            update(k)
        return [F.cross_entropy(logits, target)]


class Pass(NamedTuple):
    """Through one layer with weights.

    Attributes:
        linear: what it gives, with its graph, which begins at its input.
        output: the same, or what the ReLU makes of it that follows; without a graph.
    """

    linear: Tensor
    output: Tensor


def forward(network: Network, x: Tensor) -> list[Pass]:
    """The passes through all layers with weights; those of the classifier are the last."""
    passes: list[Pass] = []
    previous: Layer | None = None
    for layer in chain(network):
        if isinstance(layer, WEIGHTED):
            linear = layer(x)
            x = linear.detach()
            passes.append(Pass(linear, x))
        else:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and isinstance(previous, WEIGHTED):
                passes[-1] = passes[-1]._replace(output=x)
        previous = layer
    return passes


def chain(network: Network) -> Iterator[Layer]:
    """The layers, one after the other, up to the last classifier."""
    for module in network:
        yield from leaves(module.body)
    head = network[-1].head
    if not isinstance(head, sk.CrossEntropyHead):
        raise UsageError(f"--method pepita needs a linear classifier, got {type(head).__name__}; {CURE}")
    if head.features is not None:
        yield from leaves(head.features)
    yield average_positions
    yield head.classifier


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, Checkpointed):
        yield from leaves(module.block)
    elif isinstance(module, nn.Sequential):
        for child in module:
            yield from leaves(child)
    else:
        yield module


def check(network: Network) -> None:
    """Raises UsageError where the network is no chain of layers that are known here."""
    for layer in chain(network):
        if layer is not average_positions and type(layer) not in (*WEIGHTED, *BETWEEN):
            raise UsageError(
                f"--method pepita needs a chain of Linear, Conv2d, ReLU, pooling and Flatten, and this network has "
                f"{type(layer).__name__}; {CURE}"
            )
