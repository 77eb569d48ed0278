"""What a body or a head reaches, whatever callable it is: modules, tensors, and the names and containers it may change.

Functions are followed through methods, ``functools.partial``, closures, defaults and the globals that they name;
objects through their attributes; containers through their items.
"""

import functools
import types
from collections import deque
from collections.abc import Container, Iterable
from typing import Any

from torch import Tensor, nn

from ..torch_internals import parts_of

LARGEST = 10_000  # items: larger containers hold data, and searching them takes time
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_FOLLOWED = (Tensor, *_CONTAINERS)  # in attributes, beside what can be called
_OURS = ("torch", "sgr_kernels", "builtins", "functools")  # their modules keep all their state in buffers
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_LEAVES = frozenset(
    {int, float, bool, str, bytes, complex, type, type(None), types.ModuleType, types.BuiltinFunctionType}
)


class Reach:
    """Everything that is reached from ``parts``, each once.

    Args:
        without: ids of modules whose buffers are left out.

    Not found is what is kept in C++ or by hooks, in the globals of other files, and in objects inside of objects,
    unless they can be called.

    Attributes:
        modules: with all modules inside of them.
        places: what a pass may put other things into: buffers and attributes by name, dicts, lists, sets, deques.
        cells: variables of the functions around a function.
        tensors: those that are no buffers.
        buffers: those of the modules.
    """

    def __init__(self, *parts: Any, without: Container[int] = ()) -> None:
        self.without = without
        self.modules: list[nn.Module] = []
        self.places: list[Any] = []
        self.cells: list[types.CellType] = []
        self.tensors: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self._seen: dict[int, Any] = {}  # by id; holding them keeps their ids from being used again
        # Each with whether what is put into it is state: an object that is only looked into keeps its attributes.
        self._queue = [(part, True) for part in parts]
        while self._queue:
            thing, is_state = self._queue.pop()
            if type(thing) not in _LEAVES and id(thing) not in self._seen:
                self._seen[id(thing)] = thing
                self._visit(thing, is_state)
        self._seen.clear()

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
        elif _is_ours(type(thing).__module__):  # perhaps a wrapper around a function
            self._follow([getattr(thing, "__dict__", {}).get("__wrapped__")])
        else:
            self._visit_attributes(thing, type(thing).__call__ if callable(thing) else None, is_state)

    def _visit_module(self, module: nn.Module) -> None:
        """With those inside of it, in a loop of their own: this is most of the work."""
        queue, seen, tensors = [module], self._seen, self.tensors
        for module in queue:
            inner, parameters, buffers, hooks = parts_of(module)
            for each in inner.values():
                if each is not None and id(each) not in seen:
                    seen[id(each)] = each
                    queue.append(each)
            for each in parameters.values():
                if each is not None:
                    tensors.append(each)
            is_ours = _is_ours(type(module).__module__) and not hooks
            is_plain = is_ours and ("forward" not in module.__dict__ or _is_replaced_by_us(module))
            if (buffers or not is_plain) and id(module) not in self.without:
                self.buffers += [each for each in buffers.values() if each is not None]
                self.places.append(buffers)
            if not is_plain:
                self._visit_attributes(module, getattr(type(module), "forward", None), is_state=True)
        self.modules += queue

    def _visit_attributes(self, owner: Any, method: Any, is_state: bool) -> None:
        self._follow([method])
        attributes = getattr(owner, "__dict__", None)
        if attributes is None:
            return
        if is_state:
            self.places.append(attributes)
        own = [value for name, value in attributes.items() if name not in _OF_EVERY_MODULE]
        self._follow([each for each in own if callable(each) or isinstance(each, _FOLLOWED)], is_state)

    def _visit_container(self, container: Any, is_state: bool) -> None:
        if len(container) > LARGEST:
            return
        if is_state and not isinstance(container, tuple | frozenset):
            self.places.append(container)
        self._follow(container.values() if isinstance(container, dict) else container, is_state)

    def _visit_function(self, function: types.FunctionType) -> None:
        cells = [cell for cell in function.__closure__ or () if is_full(cell)]
        values = [cell.cell_contents for cell in cells]
        values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        names = function.__globals__
        if not _is_ours(names.get("__name__", "")):
            self.cells += cells
            named = [names[name] for name in _names_in(function.__code__) if name in names]
            values += [value for value in named if _is_followed(value, names)]
        self._follow_values(values)
        if vars(function):
            self._visit_attributes(function, None, is_state=True)


def _is_replaced_by_us(module: nn.Module) -> bool:
    """Whether its ``forward`` is one of ours, for a while, in a pass of another thread: see :mod:`.batch_norms`."""
    return type(module.__dict__["forward"]).__module__.startswith("sgr_kernels.")


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


def _is_followed(value: Any, names: dict[str, Any]) -> bool:
    """Whether a global, among these names, is no function of another file."""
    value = getattr(value, "__wrapped__", value) if callable(value) else value
    return not (isinstance(value, types.FunctionType) and value.__globals__ is not names)


@functools.lru_cache(maxsize=1024)
def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS
