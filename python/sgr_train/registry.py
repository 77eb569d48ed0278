"""Entries of one kind (methods, networks, heads, data sets, recipes), each registered by name in a file of its own.

The keyword-only arguments of an entry are its options: typed, with defaults, and explained in its docstring. They are
flags of the command line without being named anywhere else.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import UsageError
from .options import Option, check, options_of

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """The entries of one kind.

    Args:
        kind: what an entry is, for messages: "method".
        package: where the entries that come with the library are, a file each.
        elsewhere: gives an entry that no file registers, by name; None: there is none.
    """

    def __init__(
        self, kind: str, package: str, elsewhere: Callable[[str], Callable[..., Any] | None] = lambda name: None
    ) -> None:
        self.kind, self.package, self.elsewhere = kind, package, elsewhere
        self._entries: dict[str, Callable[..., Any]] = {}

    def load(self) -> None:
        """Import the files of the package, which calls this at its end.

        An entry may have the name of its file. As an attribute of the package the name is the entry's, which
        :meth:`attribute` finds where there is no other.
        """
        package = sys.modules[self.package]
        for info in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{info.name}")
        for name in self._entries:
            vars(package).pop(name, None)

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator: the entry is found by ``name`` from now on.

        Raises:
            ValueError: another entry has the name, or an option has no type, no default or no explanation.
        """

        def add(entry: Entry) -> Entry:
            other = self._entries.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (entry.__module__, entry.__qualname__):
                raise ValueError(f"there is a {self.kind} {name!r} already, of {other.__module__}")
            self._entries[name] = entry
            options_of(entry)
            return entry

        return add

    def names(self) -> tuple[str, ...]:
        """All names, in alphabetical order."""
        return tuple(sorted(self._entries))

    def find(self, name: str) -> Callable[..., Any]:
        """The entry.

        Raises:
            UsageError: there is none of this name.
        """
        entry = self._entries.get(name) or self.elsewhere(name)
        if entry is None:
            raise UsageError(f"--{self.kind} must be one of {', '.join(self.names())}, got {name!r}")
        return entry

    def attribute(self, name: str) -> Callable[..., Any]:
        """The registered entry, for ``__getattr__`` of the package: by its name, or that of its class.

        Raises:
            AttributeError: there is none.
        """
        for known, entry in self._entries.items():
            if name == known or (inspect.isclass(entry) and name == entry.__name__):
                return entry
        raise AttributeError(f"module {self.package} has no attribute {name!r}")

    def make(self, name: str, *args: Any, **options: Any) -> Any:
        """What the entry makes of ``args`` and its options.

        Raises:
            UsageError: there is no such entry or option, or a value is out of its range.
        """
        known = {option.name: option for option in self.options(name)}
        for key, value in options.items():
            if key not in known:
                raise UsageError(f"--{self.kind} {name} has no option {key!r}; it has {', '.join(known) or 'none'}")
            check(known[key], value)
        return self.find(name)(*args, **options)

    def options(self, name: str) -> tuple[Option, ...]:
        return options_of(self.find(name))

    def summary(self, name: str) -> str:
        """The first line of an entry's docstring."""
        return inspect.getdoc(self.find(name)).splitlines()[0]
