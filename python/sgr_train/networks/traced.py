"""Any classifier of torchvision by name, as blocks: it is traced, and cut wherever one tensor alone is carried on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import UsageError, one_line


class TracedBlocks(list[nn.Module]):
    """Blocks of a traced network.

    Attributes:
        labels: for each block, the name of the value that it ends with.
        crossed: for every other value, what else would be carried on beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.crossed: dict[str, str] = {}


class _Tracer(fx.Tracer):
    """Leaves modules without children alone: what they do in training may differ from what they do afterwards."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children()) or super().is_leaf_module(m, module_qualified_name)


def is_classifier(name: str) -> bool:
    """Whether torchvision has it."""
    from torchvision import models

    return name in models.list_models(module=models)


def blocks_of(name: str, image_shape: tuple[int, int, int]) -> TracedBlocks:
    """The blocks of a classifier but for what follows its last features with positions: a head stands in for that.

    Raises:
        UsageError: it cannot be traced, or does not take such images.
    """
    from torchvision import models

    model = models.get_model(name, weights=None)
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the code of a model raises for a value that is not there yet
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"--model {name} cannot be traced ({reason}); choose another --model") from error
    empty = copy.deepcopy(fx.GraphModule(model, graph)).to("meta").eval()
    shapes = _shapes(name, empty, image_shape)
    other = _shapes_if_any(name, empty, (image_shape[0], *(2 * side for side in image_shape[1:])))
    blocks, begun = TracedBlocks(), 0
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    for index, beside in enumerate(_carried_beside(graph, nodes)):
        node = nodes[index]
        tokens = node.name in shapes and _has_tokens(shapes[node.name], other.get(node.name))
        if beside is not None or not _has_positions(shapes.get(node.name, ()), tokens):
            blocks.crossed[_label(node)] = beside or "it has no positions"
            continue
        start = nodes[begun - 1] if begun else next(iter(graph.nodes))
        block = _segment(model, start, nodes[begun : index + 1])
        block.tokens = tokens
        blocks.append(block)
        blocks.labels.append(_label(node))
        begun = index + 1
    return blocks


def _label(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _carried_beside(graph: fx.Graph, nodes: list[fx.Node]) -> Iterator[str | None]:
    """After each node, what is carried on beside its value or writes into it; None: a module may end here."""
    position = {node: index for index, node in enumerate(nodes)}
    values = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    last_use = {node: max((position.get(user, len(nodes)) for user in node.users), default=-1) for node in values}
    for index, node in enumerate(nodes):
        if node.op == "get_attr":
            yield "it is a parameter"
            continue
        live = [v for v in values if position.get(v, -1) <= index < last_use[v] and v is not node]
        writers = [user for user in node.users if _writes(graph, user, node)]
        if live:
            yield f"{_label(live[0])} is used by {next(_label(u) for u in live[0].users if position.get(u, 0) > index)}"
        elif writers:
            yield f"{_label(writers[0])} writes into it"
        else:
            yield None


def _writes(graph: fx.Graph, user: fx.Node, value: fx.Node) -> bool:
    """Whether a node changes its first argument in place."""
    if not user.args or user.args[0] is not value:
        return False
    if user.op == "call_module":
        return bool(getattr(graph.owning_module.get_submodule(str(user.target)), "inplace", False))
    name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") or name in ("iadd", "imul", "isub", "itruediv")
    return in_place or bool(user.kwargs.get("inplace", False))


def _segment(model: nn.Module, start: fx.Node, nodes: list[fx.Node]) -> fx.GraphModule:
    """The part of a network that computes the last of ``nodes`` from the value of ``start``."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {start: graph.placeholder("x")}
    for node in nodes:
        for parameter in node.all_input_nodes:  # it may stand further up
            if parameter.op == "get_attr" and parameter not in copied:
                copied[parameter] = graph.node_copy(parameter)
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(copied[nodes[-1]])
    return fx.GraphModule(model, graph)


def _shapes(name: str, empty: fx.GraphModule, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Of the values that are floating-point tensors, by name, without the batch."""
    shapes: dict[str, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point() and n.op != "get_attr":
                shapes[n.name] = tuple(value.shape[1:])
            return value

    try:
        with torch.no_grad():
            Shapes(empty).run(torch.empty(2, *image_shape, device="meta"))
    except Exception as error:
        reason = one_line(error).partition(" While executing")[0]
        refused = f"--model {name} does not take images of shape {image_shape}"
        raise UsageError(f"{refused}: {reason}; choose another --model, or images of another size") from error
    return shapes


def _shapes_if_any(name: str, empty: fx.GraphModule, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Nothing of a network for images of one size."""
    try:
        return _shapes(name, empty, image_shape)
    except UsageError:
        return {}


def _has_tokens(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> bool:
    """Whether channels come last: they are what does not grow with the image."""
    if larger is None or len(larger) != len(shape) or shape == larger:
        return len(shape) == 2
    return shape[-1] == larger[-1]


def _has_positions(shape: tuple[int, ...], tokens: bool) -> bool:
    """Whether it is a map or a sequence, and not what is left after pooling."""
    return math.prod(shape[:-1] if tokens else shape[1:]) > 1
