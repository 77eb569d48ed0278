"""Where the list of blocks of a network is cut into modules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import UsageError

Cuts = tuple[int, ...]  # the blocks, counted from 0, that begin the second module and those after


def choose(model: str, stages: Sequence[int], stored: dict[int, Cuts], modules: int | None, cuts: Cuts | str) -> Cuts:
    """The cuts of a network.

    Args:
        model: its name, for messages.
        stages: number of blocks of each stage.
        stored: the network's own cuts for some numbers of modules.
        modules: K; None: every block is a module, unless ``cuts`` says something else.
        cuts: explicit cuts; "stages": between stages; (): by ``modules``.

    Raises:
        UsageError: they do not fit the blocks, or both were given.
    """
    count, between = sum(stages), tuple(itertools.accumulate(stages))[:-1]
    if cuts == "stages":
        cuts = between
    elif isinstance(cuts, str):
        raise UsageError(f"--cuts must be numbers, stages or auto, got {cuts!r}")
    elif cuts == ():
        return _equal(model, count, between, stored, modules)
    if modules not in (None, len(cuts) + 1):
        raise UsageError(f"--cuts {len(cuts)} times makes {len(cuts) + 1} modules; drop --modules")
    if not all(0 < cut < count for cut in cuts) or sorted(set(cuts)) != list(cuts):
        raise UsageError(
            f"--cuts must increase and lie between 1 and {count - 1} ({model} has {count} blocks), "
            f"got {' '.join(map(str, cuts))}"
        )
    return tuple(cuts)


def _equal(model: str, count: int, between: Cuts, stored: dict[int, Cuts], modules: int | None) -> Cuts:
    """The stored cuts, else between stages if there are as many, else about equal numbers of blocks."""
    wanted = count if modules is None else modules
    if not 1 <= wanted <= count:
        raise UsageError(f"--modules must be 1 to {count}, the blocks of this {model}, got {wanted}")
    if wanted in stored:
        return stored[wanted]
    if wanted == len(between) + 1:
        return between
    return tuple(round(k * count / wanted) for k in range(1, wanted))
