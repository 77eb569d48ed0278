"""A trained network as a plain module: torch's layers alone, without this package and without unused heads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from sgr_kernels.modules import average_positions

from .network import Checkpointed, Network


class _Classifier(nn.Module):
    """Pixels from 0 to 1, (B, C, H, W) -> logits (B, classes) of the last head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.register_buffer("mean", network.mean)
        self.register_buffer("std", network.std)
        self.blocks = nn.ModuleList(b.block if isinstance(b, Checkpointed) else b for b in network.blocks())
        self.head = network[-1].head

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - self.mean) / self.std
        for block in self.blocks:
            x = block(x)
        return self.head.logits(x)


def export(network: Network) -> fx.GraphModule:
    """A copy in evaluation mode. Its state dict, its code and its pickle name torch (and torchvision) only.

    Returns:
        pixels from 0 to 1, (B, C, H, W) float32 -> logits (B, classes).
    """
    classifier = _Classifier(copy.deepcopy(network)).eval().requires_grad_(False)
    module = fx.GraphModule(classifier, fx.Tracer().trace(classifier), "Classifier")
    with torch.no_grad():
        ShapeProp(module).propagate(torch.zeros(2, *network.image_shape, device=network.mean.device))
    for node in list(module.graph.nodes):
        if node.target is average_positions:
            _average_by_torch(module.graph, node)
    module.graph.lint()
    module.recompile()
    return module


def _average_by_torch(graph: fx.Graph, node: fx.Node) -> None:
    """A function of torch in the place of ours, for inputs of as many dimensions as it got."""
    [x] = node.args
    average = x
    if len(x.meta["tensor_meta"].shape) > 2:
        with graph.inserting_before(node):
            average = graph.call_function(torch.mean, (graph.call_function(torch.flatten, (x, 2)), 2))
    node.replace_all_uses_with(average)
    graph.erase_node(node)
