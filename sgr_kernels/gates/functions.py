"""Custom autograd Functions: what they do inside cannot be seen, so they have to be declared."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import nodes_behind
from ..torch_internals import OWN_AUTOGRAD_FUNCTIONS, autograd_function_of

# Modules whose Functions need no declaration: those of this package; those with which torch recomputes, and those of
# compiled graphs, which were traced with their gates.
_KNOWN_MODULES = ("sgr_kernels.", *OWN_AUTOGRAD_FUNCTIONS)
DECLARED: set[type[torch.autograd.Function]] = set()


def refuse_undeclared(loss: Tensor) -> None:
    """Look through the graph of ``loss``.

    Raises:
        ValueError: names an autograd Function that is not known to be smooth.
    """
    for node in nodes_behind([loss]):
        function = autograd_function_of(node)
        if function is None or function in DECLARED:
            continue
        name = f"{function.__module__}.{function.__qualname__}"
        if not name.startswith(_KNOWN_MODULES):
            raise ValueError(
                f"the autograd Function {name} may have kinks: declare it with sgr_kernels.smooth() if it has none, "
                "call what sgr_kernels.gate() makes of it if it has, or use engine='autograd'"
            )
