"""What a pass changes besides its results, kept and put back."""

import operator
import types
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..torch_internals import foreach_copy_, versions_of
from .reach import Reach, is_full


class Snapshot(NamedTuple):
    """What a pass may change, as it was: pairs of a thing and what was in it.

    Attributes:
        buffers: their contents.
        written: the contents of tensors that are no buffers and were written.
        places: the items of containers, see :class:`Reach`.
        cells: the values of variables.
        versions: how many times each tensor that is no buffer was written before the pass.
    """

    buffers: list[tuple[Tensor, Tensor]]
    written: list[tuple[Tensor, Tensor]]
    places: list[tuple[Any, Any]]
    cells: list[tuple[types.CellType, Any]]
    versions: list[tuple[Tensor, int]]

    @classmethod
    def of(cls, reach: Reach, start: "Snapshot | None" = None) -> "Snapshot":
        """What is there now.

        Args:
            reach: of body and head, now.
            start: what was there before a pass: tensors that are no buffers are saved if it wrote them. There may be
                many of them, and few are ever written.
        """
        buffers = [_in_memory(buffer) for buffer in {id(each): each for each in reach.buffers}.values()]
        written = [] if start is None else start.written_since()
        return cls(
            _with_contents(buffers),
            _with_contents(written),
            [(place, _items(place)) for place in reach.places],
            [(cell, cell.cell_contents) for cell in reach.cells],
            list(zip(reach.tensors, versions_of(reach.tensors), strict=True)) if start is None else start.versions,
        )

    def written_since(self) -> list[Tensor]:
        """Tensors that are no buffers."""
        now = versions_of([tensor for tensor, _ in self.versions])
        return [tensor for (tensor, before), version in zip(self.versions, now, strict=True) if version != before]

    def drifted(self) -> str:
        """Names of the tensors, no buffers, that are not what they were; empty where all are."""
        names = {
            id(value): str(name)
            for place, items in self.places
            if isinstance(place, dict)
            for name, value in items.items()
        }
        drifted = [tensor for tensor, content in self.written if not torch.equal(tensor, content)]
        return ", ".join(names.get(id(tensor), f"a tensor of shape {tuple(tensor.shape)}") for tensor in drifted)

    def restore(self) -> None:
        """Tensors, modules and containers stay the objects that they are."""
        for place, items in self.places:
            _put_back(place, items)
        for cell, value in self.cells:
            if not is_full(cell) or cell.cell_contents is not value:
                cell.cell_contents = value
        if pairs := [*self.buffers, *self.written]:
            _copy(pairs)


def _with_contents(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if not tensors:
        return []
    with torch.no_grad():
        if not tensors[0].is_cuda:
            return [(tensor, tensor.clone()) for tensor in tensors]
        contents = [torch.empty_like(tensor) for tensor in tensors]
    _copy(list(zip(contents, tensors, strict=True)))
    return list(zip(tensors, contents, strict=True))


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Into the first of each pair the second. Tensors of one dtype take one launch together, others one each."""
    by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for pair in pairs:
        by_dtype.setdefault(pair[0].dtype, []).append(pair)
    with torch.no_grad():
        for same in by_dtype.values():
            foreach_copy_(*map(list, zip(*same, strict=True)))


def _in_memory(buffer: Tensor) -> Tensor:
    """Of a buffer that is expanded, the part that is in memory."""
    if buffer.layout is torch.strided and 0 in buffer.stride():
        for dim, stride in enumerate(buffer.stride()):
            buffer = buffer.narrow(dim, 0, min(buffer.shape[dim], 1)) if stride == 0 else buffer
    return buffer


def _items(place: Any) -> Any:
    return dict(place) if isinstance(place, dict) else set(place) if isinstance(place, set) else list(place)


def _put_back(place: Any, items: Any) -> None:
    """Make ``items`` those of a dict, a list, a set or a deque. What is as it was is not touched."""
    if _is_as_it_was(place, items):
        return
    if isinstance(place, dict):
        for key in [key for key in place if key not in items]:
            del place[key]
        for key, value in items.items():
            if key not in place or place[key] is not value:
                place[key] = value
    else:
        place.clear()
        place.update(items) if isinstance(place, set) else place.extend(items)


def _is_as_it_was(place: Any, items: Any) -> bool:
    """Whether all items are the same objects in the same order."""
    same = len(place) == len(items) and all(map(operator.is_, place, items))
    return same and (not isinstance(place, dict) or all(map(operator.is_, place.values(), items.values())))
