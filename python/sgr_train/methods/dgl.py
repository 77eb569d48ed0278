"""Decoupled greedy learning (Belilovsky et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from .. import heads
from ..networks.network import Network
from . import register
from .auxiliary import features_of
from .facts import Facts
from .sgr import Layerwise


@register("dgl")
class DGL(Layerwise):
    """Layerwise, with the auxiliary networks of decoupled greedy learning as the heads before the last.

    The last module keeps the head of --head. For layerwise training with heads of your own, take layerwise.

    Args:
        engine: as of layerwise.
    """

    facts = Facts("no", "yes", "no", "1 forward, 1 backward by module", "local heads", "one module")

    def prepare(self, network: Network, sample: Tensor) -> None:
        for module in list(network)[:-1]:
            features = features_of(module, "dgl", "maps")
            module.head = heads.create("dgl", features, num_classes=network.num_classes).to(sample)
