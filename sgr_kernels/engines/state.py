"""What a pass changes besides its results, kept and put back; and which pairs of body and head need no more checks."""

import functools
import operator
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..torch_internals import foreach_copy_, version_of
from .reach import Reach, is_full

# Pairs of body and head that gave the same in two passes; value: whether a random stream is set back. See _key().
_VERIFIED: dict[tuple, bool] = {}


def verified(body: Callable, head: Callable) -> bool:
    """Whether two passes of the pair gave the same, in the mode (training or not) that it is in."""
    return _key(body, head) in _VERIFIED


def rewinds(body: Callable, head: Callable) -> bool:
    """Whether the passes of a verified pair set a random stream back."""
    return _VERIFIED[_key(body, head)]


def set_verified(body: Callable, head: Callable, rewinds: bool) -> None:
    """Remember, as long as both live, that two passes gave the same; ``rewinds``: whether they set a stream back."""
    key = _key(body, head)
    try:
        for part in (*_lasting(body), *_lasting(head)):
            weakref.finalize(part, _VERIFIED.pop, key, None).atexit = False
    except TypeError:  # an object that cannot be watched may be another one next time
        return
    _VERIFIED[key] = rewinds


def _key(*parts: Callable) -> tuple:
    lasting = [each for part in parts for each in _lasting(part)]
    return tuple((id(each), getattr(each, "training", None)) for each in lasting)


def _lasting(part: Callable) -> tuple:
    """What makes up a callable: bound methods, partials and lambdas are made anew whenever they are written."""
    if isinstance(part, types.MethodType):
        return part.__self__, part.__func__
    if isinstance(part, functools.partial):
        own, inside = (), [part.func, *part.args, *part.keywords.values()]
    elif isinstance(part, types.FunctionType):
        cells = (cell.cell_contents for cell in part.__closure__ or () if is_full(cell))
        own, inside = (part.__code__,), [*cells, *(part.__defaults__ or ())]
    else:
        return (part,)
    return own + tuple(each for value in inside if callable(value) and value is not part for each in _lasting(value))


class Snapshot(NamedTuple):
    """What :class:`State` saved: pairs of a thing and what was in it.

    Attributes:
        buffers: their contents.
        written: the contents of tensors that are no buffers and were written.
        places: the items of containers, see :class:`Reach`.
        cells: the values of variables.
        versions: how many times each tensor that is no buffer was written.
    """

    buffers: list[tuple[Tensor, Tensor]]
    written: list[tuple[Tensor, Tensor]]
    places: list[tuple[Any, Any]]
    cells: list[tuple[types.CellType, Any]]
    versions: list[tuple[Tensor, int]]


class State:
    """What a pass changes of what body and head reach."""

    def save(self, reach: Reach, start: Snapshot | None = None) -> Snapshot:
        """What is there now.

        Args:
            reach: of body and head, now.
            start: what was there before a pass: tensors that are no buffers are saved if it wrote them. There may be
                many of them, and few are ever written.
        """
        buffers = [_in_memory(buffer) for buffer in dict.fromkeys(reach.buffers)]
        versions = [] if start is None else start.versions
        written = [tensor for tensor, version in versions if version_of(tensor) != version]
        return Snapshot(
            [(buffer, buffer.detach().clone()) for buffer in buffers],
            [(tensor, tensor.detach().clone()) for tensor in written],
            [(place, _items(place)) for place in reach.places],
            [(cell, cell.cell_contents) for cell in reach.cells],
            [(tensor, version_of(tensor)) for tensor in reach.tensors],
        )

    def drifted(self, end: Snapshot) -> str:
        """Names of the tensors, no buffers, that are not what they were; empty where all are."""
        names = {
            id(value): str(name)
            for place, items in end.places
            if isinstance(place, dict)
            for name, value in items.items()
        }
        drifted = [tensor for tensor, content in end.written if not torch.equal(tensor, content)]
        return ", ".join(names.get(id(tensor), f"a tensor of shape {tuple(tensor.shape)}") for tensor in drifted)

    def load(self, snapshot: Snapshot) -> None:
        """Put it back. Tensors, modules and containers stay the objects that they are."""
        for place, items in snapshot.places:
            _put_back(place, items)
        for cell, value in snapshot.cells:
            if not is_full(cell) or cell.cell_contents is not value:
                cell.cell_contents = value
        if contents := [*snapshot.buffers, *snapshot.written]:
            with torch.no_grad():
                foreach_copy_(*map(list, zip(*contents, strict=True)))


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
    if isinstance(place, dict):
        for key in [key for key in place if key not in items]:
            del place[key]
        for key, value in items.items():
            if key not in place or place[key] is not value:
                place[key] = value
    elif len(place) != len(items) or not all(map(operator.is_, place, items)):
        place.clear()
        place.update(items) if isinstance(place, set) else place.extend(items)
