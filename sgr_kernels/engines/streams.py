"""The random streams of Python and NumPy over the passes of a step; :mod:`sgr_kernels.gates.randomness` has torch's.

Nothing announces what is drawn from them, so a stream that moved in the first pass is set back for every other one.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Access = tuple[Callable[[], Any], Callable[[Any], None]]  # get and set the state of a stream


class _Moved(NamedTuple):
    """A stream that moved in the first pass."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], None]
    before: Any
    after: Any


class Streams:
    """Made before the first pass.

    Attributes:
        moved: known after :meth:`end_first_pass`.
    """

    def __init__(self) -> None:
        self.access: dict[str, Access] = {"Python": (random.getstate, random.setstate)}
        if "numpy" in sys.modules:
            numpy_random = sys.modules["numpy"].random
            self.access["NumPy"] = (numpy_random.get_state, numpy_random.set_state)
        self.start = [get() for get, _ in self.access.values()]
        self.moved: list[_Moved] = []

    def end_first_pass(self) -> None:
        for (name, (get, put)), before in zip(self.access.items(), self.start, strict=True):
            after = get()
            if not _same(before, after):
                self.moved.append(_Moved(name, get, put, before, after))

    def refuse_capture(self) -> None:
        """During the capture of a CUDA graph: raises RuntimeError if the first pass moved a stream."""
        for stream in self.moved:
            raise RuntimeError(
                f"{stream.name}'s global random stream moved during the capture of a CUDA graph, every replay of which "
                "would have the same numbers: draw them with torch on the device, and none in other threads"
            )

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, a pass draws the numbers of the first one.

        Raises:
            RuntimeError: it drew others. It may draw as many as the first one; or none, and then the first one drew
                none either: another thread moved the stream.
        """
        for stream in self.moved:
            stream.put(stream.before)
        try:
            yield
            for stream in self.moved:
                now = stream.get()
                if not _same(now, stream.after) and not _same(now, stream.before):
                    raise RuntimeError(
                        f"{stream.name}'s global random stream did not move as in the first pass: another thread draws "
                        "from it, or the module draws other numbers; give that thread a generator of its own, or use "
                        "engine='autograd'"
                    )
        finally:
            for stream in self.moved:
                stream.put(stream.after)


def _same(a: Any, b: Any) -> bool:
    """Whether two states of a stream are equal: arrays, numbers, names or tuples of those."""
    if hasattr(a, "all"):
        return bool((a == b).all())
    if isinstance(a, tuple) and any(hasattr(part, "all") for part in a):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
