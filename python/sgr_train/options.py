"""Options: typed keywords with defaults and explanations, of entries and of commands, and what values they take."""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from .errors import UsageError

LARGEST_INTEGER = 2**31 - 1  # far beyond any sensible size, and products of two still have 64 bits
LARGEST_FLOAT = 3.4e38  # of float32
HEADING = re.compile(r"([A-Z][\w ]*):$")  # in a docstring
NAMES = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")


class Range(NamedTuple):
    """In Annotated: which numbers an option takes."""

    least: float
    most: float
    open: bool = False  # whether the least is out of it


Count = Annotated[int, Range(1, LARGEST_INTEGER)]
NotNegative = Annotated[float, Range(0.0, LARGEST_FLOAT)]
Positive = Annotated[float, Range(0.0, LARGEST_FLOAT, open=True)]
Share = Annotated[float, Range(0.0, 1.0)]


class Option(NamedTuple):
    """One keyword; ``group`` is the heading that the help of a command has it under."""

    name: str
    type: Any
    default: Any
    help: str
    group: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


class Shape(NamedTuple):
    """What the type of an option says.

    Attributes:
        kind: makes a value from a word: int, float, str or Path; bool for a switch.
        choices: of a Literal.
        several: whether it is a tuple of these.
        optional: whether None is a value.
    """

    kind: Callable[[str], Any]
    choices: tuple[str, ...] = ()
    range: Range | None = None
    several: bool = False
    optional: bool = False


def shape_of(annotation: Any) -> Shape:
    """Raises TypeError for a type that no flag can have."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return shape_of(args[0])._replace(range=args[1])
    if origin is Literal:
        return Shape(str, choices=args)
    if origin is tuple and len(args) == 2 and args[1] is ...:
        return shape_of(args[0])._replace(several=True)
    if origin in (types.UnionType, typing.Union) and type(None) in args and len(args) == 2:
        return shape_of(next(arg for arg in args if arg is not type(None)))._replace(optional=True)
    if set(args) == {int, str}:
        return Shape(number_or_name)
    if isinstance(annotation, type):
        return Shape(annotation)
    raise TypeError(f"no flag can have the type {annotation}")


def number_or_name(word: str) -> int | str:
    return int(word) if word.lstrip("-").isdigit() else word


def check(option: Option, value: Any) -> None:
    """Raise UsageError, which names the flag, if the option does not take ``value``."""
    shape = shape_of(option.type)
    if value is None and shape.optional:
        return
    for each in value if shape.several else (value,):
        if shape.choices and each not in shape.choices:
            raise refusal(option, f"one of {', '.join(shape.choices)}", value)
        if shape.range is not None and not isinstance(each, str):
            _check_range(option, shape.range, each, value)


def from_plain(option: Option, value: Any) -> Any:
    """The value that JSON has as ``value``."""
    shape = shape_of(option.type)
    if value is None:
        return None
    if shape.several:
        return tuple(Path(each) if shape.kind is Path else each for each in value)
    return Path(value) if shape.kind is Path else value


def from_text(option: Option, text: str) -> Any:
    """The value that a user writes as ``text``: several are separated by spaces; none, true and false have values.

    Raises:
        UsageError: it is no value of the option.
    """
    shape = shape_of(option.type)
    if text == "none" and shape.optional:
        return None
    kind = {"true": True, "false": False}.__getitem__ if shape.kind is bool else shape.kind
    try:
        return tuple(map(kind, text.split())) if shape.several else kind(text)
    except (KeyError, ValueError) as error:
        raise refusal(option, "true or false" if shape.kind is bool else f"of type {kind.__name__}", text) from error


def to_words(option: Option, value: Any) -> list[str]:
    """The words of a command line that give the option this value, which is not None."""
    shape = shape_of(option.type)
    if shape.kind is bool:
        return [switch(option)]
    return [option.flag, *map(str, value if shape.several else (value,))]


def switch(option: Option) -> str:
    """The flag that gives an option of true or false the value that is not the default."""
    return f"--no-{option.flag[2:]}" if option.default else option.flag


def help_of_flag(option: Option) -> str:
    """The explanation, as it reads beside the flag: --no-NAME switches off what it says."""
    is_switched_off = shape_of(option.type).kind is bool and option.default
    return f"switch this off: {option.help}" if is_switched_off else option.help


def refusal(option: Option, expected: str, value: Any) -> UsageError:
    return UsageError(f"{option.flag} must be {expected}, got {value!r}")


def _check_range(option: Option, range: Range, each: float, value: Any) -> None:
    least, most, is_open = range
    if not (each > least if is_open else each >= least) or each == math.inf:
        sign = ">" if is_open else ">="
        expected = f"a number {sign} {least:g}" if isinstance(least, float) else f"at least {least}"
        raise refusal(option, expected, value)
    if each > most:
        raise refusal(option, f"at most {most:g}" if isinstance(most, float) else f"at most {most}", value)


def options_of(entry: Callable[..., Any]) -> tuple[Option, ...]:
    """The keyword-only arguments of a function, or of the constructor of a class, explained under "Args:".

    Raises:
        ValueError: one has no type, no default or no explanation.
    """
    function = entry.__init__ if inspect.isclass(entry) else entry
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if not parameters:
        return ()
    types_, explained = typing.get_type_hints(function, include_extras=True), sections(entry).get("Args", {})
    for parameter in parameters:
        missing = [
            what
            for what, there in (
                ("type", parameter.name in types_),
                ("default", parameter.default is not parameter.empty),
                ("explanation under 'Args:'", parameter.name in explained),
            )
            if not there
        ]
        if missing:
            raise ValueError(f"option {parameter.name!r} of {entry.__qualname__} has no {' and no '.join(missing)}")
    return tuple(Option(p.name, types_[p.name], p.default, explained[p.name]) for p in parameters)


def sections(documented: Any) -> dict[str, dict[str, str]]:
    """What a docstring says of each name, on one line, by the heading ("Args") that the names stand under."""
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(documented) or "").splitlines():
        heading, begun = HEADING.match(line), NAMES.match(line)
        if heading:
            section, names = found.setdefault(heading[1], {}), []
        elif begun:
            names = begun[1].split(", ")
            section.update(dict.fromkeys(names, begun[2]))
        elif line.startswith(" "):
            section.update({name: f"{section[name]} {line.strip()}" for name in names})
        elif line:  # a paragraph between two headings
            section, names = {}, []
    return found
