"""What a body or a head reaches, whatever callable it is: modules, tensors, and the names and containers it may change.

Functions are followed through methods, ``functools.partial``, closures, defaults and the globals that they name;
objects through their attributes; containers through their items.
"""

import functools
import types
from collections import deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..torch_internals import buffers_of, children_of, parameters_of, runs_forward_hooks

LARGEST = 10_000  # items: larger containers hold data, and searching them takes time
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_OURS = ("torch", "sgr_kernels", "builtins")  # their modules keep all their state in buffers
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_LEAVES = frozenset(
    {int, float, bool, str, bytes, complex, type, type(None), types.ModuleType, types.BuiltinFunctionType}
)


class Reach:
    """Everything that is reached from ``parts``, each once.

    Not found is what is kept in C++ or by hooks, in the globals of other files, and in objects inside of objects,
    unless they can be called.

    Attributes:
        modules: with all modules inside of them.
        places: what a pass may put other things into: buffers and attributes by name, dicts, lists, sets, deques.
        cells: variables of the functions around a function.
        tensors: those that are no buffers.
    """

    def __init__(self, parts: Iterable[Any]) -> None:
        self.modules: list[nn.Module] = []
        self.places: list[Any] = []
        self.cells: list[types.CellType] = []
        self.tensors: list[Tensor] = []
        seen: dict[int, Any] = {}  # by id; holding them keeps their ids from being used again
        # Each with whether what is put into it is state: an object that is only looked into keeps its attributes.
        self._queue = [(part, True) for part in parts]
        while self._queue:
            thing, is_state = self._queue.pop()
            if type(thing) not in _LEAVES and id(thing) not in seen:
                seen[id(thing)] = thing
                self._visit(thing, is_state)

    def _follow(self, things: Iterable[Any], is_state: bool = True) -> None:
        self._queue += [(thing, is_state) for thing in things]

    def _follow_values(self, values: Iterable[Any]) -> None:
        self._queue += [(value, callable(value) or isinstance(value, _CONTAINERS)) for value in values]

    def _visit(self, thing: Any, is_state: bool) -> None:
        if isinstance(thing, nn.Module):
            self._visit_module(thing)
        elif isinstance(thing, Tensor):
            self.tensors.append(thing)
        elif isinstance(thing, _CONTAINERS):
            self._visit_container(thing, is_state)
        elif isinstance(thing, types.FunctionType):
            self._visit_function(thing)
        elif isinstance(thing, types.MethodType):
            self._follow([thing.__self__, thing.__func__])
        elif isinstance(thing, functools.partial):
            self._follow_values([thing.func, *thing.args, *thing.keywords.values()])
        elif isinstance(thing, type | types.ModuleType):
            pass
        elif _is_of_others(type(thing)):
            self._visit_attributes(thing, type(thing).__call__ if callable(thing) else None, is_state)
        else:  # perhaps a wrapper of torch or of Python around a function
            self._follow([getattr(thing, "__dict__", {}).get("__wrapped__")])

    def _visit_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        self._follow(children_of(module).values())
        self.tensors += [parameter for parameter in parameters_of(module).values() if parameter is not None]
        buffers = buffers_of(module)
        is_plain = not (_is_of_others(type(module)) or runs_forward_hooks(module) or "forward" in vars(module))
        if buffers or not is_plain:
            self.places.append(buffers)
        if not is_plain:
            self._visit_attributes(module, type(module).forward, is_state=True)

    def _visit_attributes(self, owner: Any, method: Any, is_state: bool) -> None:
        attributes = getattr(owner, "__dict__", None) or {}
        if is_state:
            self.places.append(attributes)
        own = [value for name, value in attributes.items() if name not in _OF_EVERY_MODULE]
        self._follow([v for v in own if callable(v) or isinstance(v, (Tensor, *_CONTAINERS))], is_state)
        self._follow([method])

    def _visit_container(self, container: Any, is_state: bool) -> None:
        if len(container) > LARGEST:
            return
        if is_state and not isinstance(container, tuple | frozenset):
            self.places.append(container)
        self._follow(container.values() if isinstance(container, dict) else container, is_state)

    def _visit_function(self, function: types.FunctionType) -> None:
        cells = [cell for cell in function.__closure__ or () if is_full(cell)]
        self.cells += cells
        values = [cell.cell_contents for cell in cells]
        values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        names = function.__globals__
        if names.get("__name__", "").partition(".")[0] not in _OURS:
            values += [names[name] for name in _names_in(function.__code__) if _is_followed(names, name)]
        self._follow_values(values)
        if vars(function):
            self._visit_attributes(function, None, is_state=True)


def is_full(cell: types.CellType) -> bool:
    """Whether the variable has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals and attributes in a function and in those inside of it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return tuple(dict.fromkeys((*code.co_names, *(name for each in inner for name in _names_in(each)))))


def _is_followed(names: dict[str, Any], name: str) -> bool:
    """Whether a global is there, and no function of another file."""
    value = names.get(name)
    value = getattr(value, "__wrapped__", value) if callable(value) else value
    return value is not None and not (isinstance(value, types.FunctionType) and value.__globals__ is not names)


@functools.lru_cache(maxsize=1024)
def _is_of_others(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in _OURS
