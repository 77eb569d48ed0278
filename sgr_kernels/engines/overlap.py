"""Steps on a GPU that do not wait for each other.

What the next module needs of a step, its output and the gradient for it, is there after the first pass. The other
passes are work for a stream of their own, beside the next step: kernels of small tensors leave most of a GPU idle.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .common import add_gradients
from .reach import Reach

Gradients = list[Tensor | None]


class _Pending(NamedTuple):
    """A step that has been launched and not been waited for.

    Attributes:
        touches: ids of the tensors that its module reaches.
        held: what the stream still reads: memory goes back to the one that it was taken on, which would give it to the
            next step.
        origin: the stream of the step.
    """

    stream: torch.cuda.Stream
    origin: torch.cuda.Stream
    touches: set[int]
    held: Any
    parameters: list[Tensor]
    gradients: Gradients


class Overlap:
    """The steps inside of one :func:`overlapping`."""

    def __init__(self) -> None:
        self.pending: list[_Pending] = []
        self.touched: set[int] = set()

    def begin(self, reach: Reach) -> None:
        """Call before each step. Waits for those under way where its module shares a tensor with one of them."""
        self.touched = {id(tensor) for tensor in (*reach.tensors, *reach.buffers)}
        if any(self.touched & each.touches for each in self.pending):
            self.finish()

    def launch(self, parameters: list[Tensor], work: Callable[[], Gradients], held: Any) -> None:
        """``work()`` on a stream of its own; in the end its results are added to the gradients of ``parameters``."""
        device = parameters[0].device
        current, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream), _own_casts():
                gradients = work()
        except BaseException:
            current.wait_stream(stream)  # before the memory is given to others
            raise
        self.pending.append(_Pending(stream, current, self.touched, (work, held), parameters, gradients))

    def finish(self) -> None:
        """Gradients go where they belong, in the order of the steps, once all are there."""
        pending, self.pending = self.pending, []
        for each in pending:
            each.origin.wait_stream(each.stream)
            current = torch.cuda.current_stream(each.origin.device)
            if current != each.origin:
                current.wait_stream(each.origin)
        for each in pending:
            add_gradients(each.parameters, each.gradients)


_CURRENT: ContextVar[Overlap | None] = ContextVar("overlap", default=None)


@contextlib.contextmanager
def overlapping() -> Iterator[None]:
    """Inside, a directional step on a GPU returns once its first pass is launched, and the next runs beside the rest.

    For small tensors in CUDA graphs, where most of a GPU is idle; it takes memory, since the activations of several
    modules are there at once. On leaving, the current stream waits for all of them, and only then are the gradients of
    these steps, not the SGR gradients alone, added to ``.grad``: optimizers step after that. Buffers are in motion
    until then. Steps whose modules share a tensor wait for each other. Without a ``delta_pre``, with other engines and
    on other devices nothing changes.
    """
    overlap = Overlap()
    token = _CURRENT.set(overlap)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        overlap.finish()


def current(x: Tensor) -> Overlap | None:
    """That of the steps on the device of ``x``; None: each step ends before the next."""
    overlap = _CURRENT.get()
    return overlap if overlap is not None and x.is_cuda else None


@contextlib.contextmanager
def _own_casts() -> Iterator[None]:
    """Casts of weights that autocast keeps belong to the stream that they were made on, and go with it."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
