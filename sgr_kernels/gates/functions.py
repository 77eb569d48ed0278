"""Custom autograd Functions: what they do inside cannot be seen, so they have to be declared."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import nodes_behind

# Known by the beginnings of their names: those of this package; that with which recomputation keeps inputs; graphs of
# torch.compile, which were traced with their gates.
_KNOWN = (
    "sgr_kernels.",
    "torch.utils.checkpoint.",
    "torch._functorch.",
    "torch._dynamo.",
    "torch._inductor.",
)
DECLARED: set[type[torch.autograd.Function]] = set()


def refuse_undeclared(loss: Tensor) -> None:
    """Look through the graph of ``loss``.

    Raises:
        ValueError: names an autograd Function that is not known to be smooth.
    """
    for node in nodes_behind([loss]):
        function = getattr(node, "_forward_cls", None)
        if function is not None and function not in DECLARED and not _name(function).startswith(_KNOWN):
            raise ValueError(
                f"the autograd Function {_name(function)} may have kinks: declare it with "
                "sgr_kernels.smooth() if it has none, or use engine='autograd'"
            )


def _name(function: type[torch.autograd.Function]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
