"""What is remembered of callables as long as they live."""

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

from .reach import is_full


class PerCallables:
    """A dict whose keys are some callables, told apart by identity, class and mode (training or not).

    Bound methods, lambdas and partials, which are made anew whenever they are written, are told apart by their objects,
    code and what they hold that can be called.
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


def _lasting(each: Callable, inside_of: tuple = ()) -> tuple:
    """What a callable is made of."""
    if isinstance(each, types.MethodType):
        return each.__self__, each.__func__
    if isinstance(each, functools.partial):
        own, held = (), [each.func, *each.args, *each.keywords.values()]
    elif isinstance(each, types.FunctionType):
        cells = [cell.cell_contents for cell in each.__closure__ or () if is_full(cell)]
        own, held = (each.__code__,), [*cells, *(each.__defaults__ or ())]
    else:
        return (each,)
    inside_of = (*inside_of, each)
    callables = [value for value in held if callable(value) and not any(value is outer for outer in inside_of)]
    return own + tuple(part for value in callables for part in _lasting(value, inside_of))
