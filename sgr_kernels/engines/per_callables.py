"""What is remembered of callables as long as they live."""

import types
import weakref
from collections.abc import Callable
from typing import Any


class PerCallables:
    """A dict whose keys are some callables, told apart by identity, class and mode (training or not).

    Bound methods, which are made anew whenever they are named, are those of the same object.
    """

    def __init__(self) -> None:
        self._values: dict[tuple, Any] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, *callables: Callable) -> Any:
        """What was put last; None where nothing was."""
        return self._values.get(_key(callables))

    def put(self, value: Any, *callables: Callable) -> None:
        """Nothing is remembered of objects that cannot be watched: another one may take their place."""
        key = _key(callables)
        try:
            for each in callables:
                for part in _lasting(each):
                    weakref.finalize(part, self._values.pop, key, None).atexit = False
        except TypeError:
            return
        self._values[key] = value


def _key(callables: tuple[Callable, ...]) -> tuple:
    lasting = [part for each in callables for part in _lasting(each)]
    return tuple([(id(part), id(type(part)), getattr(part, "training", None)) for part in lasting])


def _lasting(each: Callable) -> tuple:
    return (each.__self__, each.__func__) if isinstance(each, types.MethodType) else (each,)
