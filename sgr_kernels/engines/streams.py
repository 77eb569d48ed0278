"""The random streams of Python and NumPy over the passes of a step; :mod:`sgr_kernels.gates.randomness` has torch's.

Nothing announces what is drawn from them, so a stream that moved in the first pass is set back for every other one.
"""

import contextlib
import ctypes
import functools
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Access = tuple[Callable[[], Any], Callable[[Any], None]]  # get and set the state of a stream

# By stream: the state read last, and the memory that held it then. Reading takes as long as a small layer, for both
# libraries write the state out number by number; comparing memory does not.
_LAST_READ: dict[str, tuple[bytes, Any]] = {}


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
        self.start = [_state(name, get) for name, (get, _) in self.access.items()]
        self.moved: list[_Moved] = []

    def end_first_pass(self) -> None:
        for (name, (get, put)), before in zip(self.access.items(), self.start, strict=True):
            after = _state(name, get)
            if after is not before and not _same(before, after):
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


def _state(name: str, get: Callable[[], Any]) -> Any:
    """``get()``, which is not called if the memory of the stream is what it was."""
    memory = _memory(get)
    last, state = _LAST_READ.get(name, (None, None))
    if memory is not None and memory == last:
        return state
    state = get()
    if memory is not None and memory == _memory(get):  # no other thread drew meanwhile
        _LAST_READ[name] = memory, state
    return state


def _memory(get: Callable[[], Any]) -> bytes | None:
    """All bytes that the state is in, perhaps with others; None where that is not known."""
    owner = getattr(get, "__self__", None)
    if type(owner) is random.Random:
        return _of_python(owner) if _python_shows_moves() else None
    if type(owner).__module__ != "numpy.random.mtrand" or not _numpy_shows_moves():
        return None
    generator = sys.modules["numpy"].random.get_bit_generator()
    return _of_numpy(owner, generator) if type(generator).__name__ == "MT19937" else None


def _of_python(stream: random.Random) -> bytes:
    return _bytes_of(stream) + repr(stream.gauss_next).encode()


def _of_numpy(stream: Any, generator: Any) -> bytes:
    return _bytes_of(stream) + _bytes_of(generator)


@functools.cache
def _python_shows_moves() -> bool:
    stream = random.Random(0)
    return shows_moves(lambda: _of_python(stream), stream.random, *[lambda: stream.gauss(0, 1)] * 2, stream.seed)


@functools.cache
def _numpy_shows_moves() -> bool:
    numpy_random = sys.modules["numpy"].random
    if not hasattr(numpy_random, "get_bit_generator"):
        return False
    generator = numpy_random.MT19937(0)
    stream = numpy_random.RandomState(generator)
    return shows_moves(lambda: _of_numpy(stream, generator), stream.random, *[stream.normal] * 2, stream.seed)


def shows_moves(memory: Callable[[], bytes], *moves: Callable[[], Any]) -> bool:
    """Whether the memory of a stream differs after each of some moves: another version may keep its state elsewhere.

    Normal numbers come in pairs, the second of which is kept for the next call.
    """
    seen = {memory()}
    for move in moves:
        move()
        seen.add(memory())
    return len(seen) == len(moves) + 1


def _bytes_of(thing: object) -> bytes:
    """What the object itself has in memory, without its reference count."""
    return _memory_of(thing).raw


@functools.lru_cache(maxsize=8)  # making it takes longer than reading it; the cache keeps the object alive
def _memory_of(thing: object) -> ctypes.Array:
    header = object.__basicsize__
    return (ctypes.c_char * (type(thing).__basicsize__ - header)).from_address(id(thing) + header)


def _same(a: Any, b: Any) -> bool:
    """Whether two states of a stream are equal: arrays, numbers, names or tuples of those."""
    if hasattr(a, "all"):
        return bool((a == b).all())
    if isinstance(a, tuple) and any(hasattr(part, "all") for part in a):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
