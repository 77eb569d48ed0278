"""Walking an autograd graph."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def nodes_behind(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graph that ends in the tensors, once. The node of a leaf has it as ``variable``."""
    queue, seen = [tensor.grad_fn for tensor in tensors], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        queue.extend(edge for edge, _ in node.next_functions)
