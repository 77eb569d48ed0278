"""Every error that the library and the driver raise, read from the code: ``python docs/site/error_messages.py``.

One line a message: the file and its line, the kind of the error, and its text with ... for what is filled in.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sgr_train

import sgr_kernels

PACKAGES = tuple(pathlib.Path(package.__file__).parent for package in (sgr_kernels, sgr_train))
FILLED_IN = "..."


class Message(NamedTuple):
    """``path`` begins with the package; ``text`` is empty where the error has none."""

    path: pathlib.Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}: {self.text}"


def messages(folders: Iterable[pathlib.Path] = PACKAGES) -> list[Message]:
    """Of all errors that the files below these folders make, raised where they are made or by who called."""
    trees = {
        path.relative_to(folder.parent): ast.parse(path.read_text())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    kinds = _kinds(trees.values())
    everywhere = dict(each for tree in trees.values() for each in _constants(tree))
    found = []
    for path, tree in trees.items():
        constants = {**everywhere, **dict(_constants(tree))}
        raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for node in ast.walk(tree):
            kind = _kind(node.func if isinstance(node, ast.Call) else node if id(node) in raised else None)
            if kind in kinds or kind.endswith("Error"):
                text = _text(node.args[0], constants) if isinstance(node, ast.Call) and node.args else ""
                found.append(Message(path, node.lineno, kind, text))
    return sorted(found)


def _kinds(trees: Iterable[ast.Module]) -> set[str]:
    """The errors that the packages define."""
    bases = {
        node.name: {_kind(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"Exception", "KeyboardInterrupt", "SystemExit"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def _kind(node: ast.expr | None) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.IfExp(body=body):
            return _kind(body)
    return ""


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of a file that stand for a text."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def _text(node: ast.expr, constants: dict[str, str]) -> str:
    """What a string, an f-string, a constant or ``constant.format(...)`` says, as far as that is known."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, constants) for part in parts)
        case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name) if name in constants:
            return constants[name]
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="format")) if name in constants:
            return constants[name].replace("{}", FILLED_IN)
    return FILLED_IN


if __name__ == "__main__":
    print("\n".join(map(str, messages())))
