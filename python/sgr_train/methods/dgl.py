"""Decoupled greedy learning (Belilovsky et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from ..networks.network import Network
from . import register
from .auxiliary import features_of, replace_head
from .facts import Facts
from .sgr import Layerwise


@register("dgl")
class DGL(Layerwise):
    """Layerwise, with the auxiliary networks of decoupled greedy learning as the heads before the last.

    The last module keeps the head of --head. For layerwise training with other heads take layerwise.
    """

    facts = Facts("no", "yes", "no", "1 forward, 1 backward by module", "local heads", "one module")

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, network: Network, sample: Tensor) -> None:
        for module in list(network)[:-1]:
            features = features_of(module, "dgl", "maps")
            replace_head(module, "dgl", features, sample, network.num_classes)
