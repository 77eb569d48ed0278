"""The sizes at which operators are measured: those of their cases that are timed, written as 128x4096."""

from __future__ import annotations

from collections.abc import Iterator

from ..cases.case import Size

Shape = tuple[int, ...]


def timed(sizes: tuple[Size, ...], device: str, quick: bool) -> Iterator[tuple[Size, str]]:
    """Sizes with the names of their dtypes."""
    when = {"quick"} | ({"full"} if not quick else set()) | ({"gpu"} if device == "cuda" else set())
    chosen = [size for size in sizes if size.timed in when]
    yield from ((size, "float32") for size in chosen)
    yield from ((size, "bfloat16") for size in chosen if size.halves)


def parse(shape: str) -> Shape:
    return tuple(map(int, shape.split("x")))


def text(shape: Shape) -> str:
    return "x".join(map(str, shape))
