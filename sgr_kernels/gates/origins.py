"""Which nodes of an autograd graph were made by calls that a function mode saw.

A mode sees calls of torch's functions in Python and in its own thread. What scripted modules, C++ and other threads do
shows in the graph only. torch numbers the nodes that a thread makes, so the numbers made during the calls are known.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from ..torch_internals import NUMBER_OF_LEAVES, next_node_number, node_number

_VIEW_NAMES = """
    Alias AsStrided Diagonal Expand Permute ReshapeAlias Select Slice Split SplitWithSizes Squeeze T Transpose Unbind
    Unfold UnsafeView Unsqueeze View
"""


class Calls:
    """The calls that a mode saw.

    Attributes:
        numbers: of the first node made in each, and of the first made after it.
        compiled: the same of stretches between two calls in which compiled code ran, which was traced with the mode.
        leaves: of the graph that :meth:`unseen` went through to the end.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.start = next_node_number()
        self.compiled: list[tuple[int, int]] = []
        self.leaves: list[Tensor] = []

    def add_compiled(self, end: int) -> None:
        """After the last of ``numbers``."""
        self.compiled.append((self.numbers[-1] if self.numbers else self.start, end))
        self.numbers += end, end

    def beside_compiled_code(self, node: Any) -> bool:
        """Whether the node was made in one of the stretches ``compiled``."""
        return any(first <= node_number(node) < end for first, end in self.compiled)

    def unseen(self, loss: Tensor) -> Iterator[Any]:
        """Nodes of the graph of ``loss`` that no call made; leaves excepted.

        Another thread has numbers of its own, which may be those of a call here. But a number is given once, and in a
        graph of one thread they fall from a node to the nodes it needs, other than those of the same call.
        """
        if loss.grad_fn is None:
            return
        numbers = {loss.grad_fn: node_number(loss.grad_fn)}
        queue, given = [loss.grad_fn], set()
        while queue:
            node = queue.pop()
            number = numbers[node]
            # Bounds are in order, those of calls without nodes included: a number inside of a call is behind the first
            # one of a pair.
            call = bisect_right(self.numbers, number)
            if call % 2 == 0 or number in given:
                yield node
            given.add(number)
            for needed, _ in node.next_functions:
                if needed is None or needed in numbers:
                    continue
                numbers[needed] = other = node_number(needed)
                if other == NUMBER_OF_LEAVES:
                    self.leaves.append(needed.variable)
                    continue
                queue.append(needed)
                if other > number and call % 2 == 1 and bisect_right(self.numbers, other) != call:
                    yield node


def is_view(node: Any) -> bool:
    return node.name().rstrip("0123456789").removesuffix("Backward") in _VIEW_NAMES.split()


def nodes_behind(tensors: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graph that ends in the tensors, once. The node of a leaf has it as ``variable``."""
    return nodes_from(tensor.grad_fn for tensor in tensors)


def nodes_from(nodes: Iterable[Any]) -> Iterator[Any]:
    """The nodes, except where None, and every node they need, once."""
    queue, seen = list(nodes), set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        queue.extend(needed for needed, _ in node.next_functions)
